import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents.policy.bundle import save_bundle
from agents.policy.pricing import Floors, Pricing
from agents.training.config import PpoConfig
from agents.training.ppo import Trainer
from agents.training.sb3 import Lanes, Normaliser, export_policy
from envs.carbon.csv_traces import synthetic_day
from envs.errors import ConfigError
from envs.llama2 import Llama2VectorEnv
from envs.outcomes.limits import Limit
from envs.problem.arguments import ReplayArguments
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from envs.world import moment_on, request_parts
from envs.worlds import replay_world
from tests import made


class MemoryTracker:
    def __init__(self):
        self.rows = []

    def log(self, figures, step):
        self.rows.append((step, dict(figures)))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("start_batches", "replay_steps", "changed"),
    [
        (200, 0, {}),
        pytest.param(150, 0, {"start_loss": "reward"}, marks=pytest.mark.long),
        pytest.param(0, 150_000, {"learning_rate": 3e-3, "lanes": 2048}, marks=pytest.mark.long),
        pytest.param(200, 8_192, {}, marks=pytest.mark.long),
    ],
    ids=["supervised", "offline policy gradient", "ppo alone", "both"],
)
def test_each_stage_learns_the_obvious_policy_on_two_kinds(
    tmp_path, start_batches, replay_steps, changed
):
    # Short answers cost "proof" all its quality and "lookup" none: L0 and L2 are best.
    requests = made.chats(
        60, {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}
    )
    profile = made.profile(
        tmp_path, requests, lambda r, d: float(r.task == "lookup" or d == "none")
    )
    tracker = MemoryTracker()
    trace = synthetic_day()
    floors = {"lookup": 0.95, "proof": 0.95}
    config = PpoConfig(
        start_batches=start_batches,
        replay_steps=replay_steps,
        confidence=0.0,
        seed=1,
        **{"lanes": 512} | changed,
    )
    trainer = Trainer(profile, trace, floors, config, tracker)
    trainer.replay()
    trained = trainer.result()
    assert trained.floors_kept

    fresh = made.chats(
        200, {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}, 9
    )
    judged = made.profile(tmp_path, fresh, lambda r, d: float(r.task == "lookup" or d == "none"))
    featurizer = trained.featurizer
    count = len(fresh)
    times = np.linspace(trace.start, trace.end - 1, count)
    parts = request_parts(featurizer, judged.requests)
    observations = featurizer.observe(parts, moment_on(trace, times, np.zeros(count)))
    pricing = Pricing(featurizer, trained.front, floors, zone=trace.zone)
    points = pricing.points(
        [r.task for r in judged.requests], observations, trace.at(times), Floors()
    )
    chance = trained.policy.probabilities(
        featurizer.at_prices(observations, points.log_price, points.log_latency_price)
    )
    tasks = np.array([request.task for request in fresh])
    quality = (judged.outcomes.correct * chance).sum(axis=1)
    ratios = [
        quality[tasks == t].sum() / judged.outcomes.correct[tasks == t, 0].sum() for t in floors
    ]
    # Half of L0's energy (lookup) can be saved, except for L2's own 2 of 50 tokens.
    best = 0.5 * (1 - 2 / 50)
    saved = (
        1
        - (judged.outcomes.energy_joules * chance).sum() / judged.outcomes.energy_joules[:, 0].sum()
    )
    assert saved >= 0.95 * best
    assert min(ratios) >= 0.94
    assert trained.steps >= replay_steps
    if replay_steps:
        steps, figures = tracker.rows[-1]
        assert steps == trained.steps
        assert {"reward/footprint", "reward/quality", "train/entropy_loss"} <= set(figures)
    if replay_steps > 100_000:
        probed = [row for _, row in tracker.rows if "validation/grams/price 3" in row]
        assert probed[-1]["validation/quality/price 10"] > 0.95


def test_training_leaves_no_folder_in_the_temporary_directory(tmp_path, monkeypatch):
    profile = made.profile(tmp_path, generate_requests(10, seed=0), lambda r, d: 1.0)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    config = PpoConfig(start_batches=2, replay_steps=256, lanes=32, n_steps=4)
    Trainer(profile, synthetic_day(), {"recall": 0.5}, config, MemoryTracker()).replay()
    # (torch keeps one cache there, the same for every run.)
    assert not list(temporary.glob("SB3*"))


def test_the_bundle_decides_as_the_sb3_model_does(tmp_path):
    profile = made.profile(tmp_path, generate_requests(10, seed=0), lambda r, d: 1.0)
    world = replay_world(ReplayArguments(profile=profile), lanes=8)
    lanes = Lanes(Llama2VectorEnv(world))
    rng = np.random.default_rng(0)
    width = len(world.featurizer.names)
    model = PPO(
        "MlpPolicy",
        lanes,
        n_steps=8,
        batch_size=64,
        device="cpu",
        seed=0,
        policy_kwargs={
            "net_arch": [16, 16],
            "activation_fn": torch.nn.Tanh,
            "features_extractor_class": Normaliser,
            "features_extractor_kwargs": {
                "mean": rng.normal(size=width).astype(np.float32),
                "scale": rng.uniform(size=width).astype(np.float32),
            },
        },
    )
    model.learn(256)
    bundle = save_bundle(
        tmp_path / "b", export_policy(model.policy), DEFAULT_CATALOGUE, world.featurizer, "m", {}
    )
    observations = np.concatenate([world.reset(seed=8 * i) for i in range(1250)])
    assert len(observations) == 10_000
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs
    difference = np.abs(bundle.policy.probabilities(observations) - expected.numpy())
    assert difference.max() < 1e-5


def test_lanes_report_truncation_as_sb3_expects(tmp_path):
    profile = made.profile(tmp_path, generate_requests(4, seed=0), lambda r, d: 1.0)
    given = ReplayArguments(profile=profile)
    env = Llama2VectorEnv(replay_world(given, lanes=3, max_episode_steps=2))
    lanes = Lanes(env)
    lanes.seed(4)
    lanes.reset()
    _, _, done, infos = lanes.step(np.zeros(3, dtype=int))
    assert not done.any()
    observations, _, done, infos = lanes.step(np.zeros(3, dtype=int))
    assert done.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert not np.array_equal(infos[0]["terminal_observation"], observations[0])


def test_lanes_without_infos_report_no_truncation(tmp_path):
    profile = made.profile(tmp_path, generate_requests(4, seed=0), lambda r, d: 1.0)
    given = ReplayArguments(profile=profile)
    env = Llama2VectorEnv(replay_world(given, lanes=3, max_episode_steps=1))
    lanes = Lanes(env, infos=False)
    lanes.reset()
    _, _, done, infos = lanes.step(np.zeros(3, dtype=int))
    assert done.all()
    assert infos == [{}, {}, {}]


def test_a_task_without_references_is_left_out(tmp_path):
    kinds = {"lookup": "What is item {n}?", "open": "Explain why {n} is so. Show all steps."}
    profile = made.profile(tmp_path, made.chats(30, kinds), lambda r, d: 1.0)
    profile.outcomes.correct[profile.rows_of("open")] = np.nan
    floors = {"lookup": 0.95, "open": 0.95}
    trainer = Trainer(profile, synthetic_day(), floors, PpoConfig(), MemoryTracker())
    assert trainer.featurizer.tasks == ("lookup",)
    assert set(trainer.reward.floors) == {"lookup"}


def test_a_floor_that_cannot_be_checked_is_refused(tmp_path):
    requests = made.chats(30, {"lookup": "What is item {n}?"})
    profile = made.profile(tmp_path, requests, lambda r, d: 0.0)
    with pytest.raises(ConfigError, match="'lookup'"):
        Trainer(profile, synthetic_day(), {"lookup": 0.95}, PpoConfig(), MemoryTracker())


@pytest.mark.long
def test_a_latency_limit_overrules_the_directive_that_emits_least(tmp_path):
    # Quality is equal under all directives, but the cheapest is slow, as on a small server.
    requests = made.chats(60, {"lookup": "What is item {n}?", "proof": "Explain why {n} is so."})
    profile = made.profile(tmp_path, requests, lambda r, d: 1.0)
    profile.outcomes.latency_seconds[profile.rows_of("lookup"), 2] = 1.0
    floors = {"lookup": 0.9, "proof": 0.9}
    config = PpoConfig(replay_steps=20_000)
    for limits, least, most in (({}, 0.9, 1.0), ({"lookup": Limit(mean_seconds=0.2)}, 0.0, 0.21)):
        trainer = Trainer(profile, synthetic_day(), floors, config, MemoryTracker(), limits=limits)
        trainer.replay()
        trained = trainer.result()
        shares = np.array(trained.validation.share_by_task["lookup"])
        assert trained.floors_kept
        assert least <= shares @ profile.outcomes.latency_seconds[0] <= most
        assert trained.validation.share_by_task["proof"][2] > 0.9


def test_a_live_training_that_learns_nothing_keeps_the_policy_of_the_replay(tmp_path):
    profile = made.profile(tmp_path, generate_requests(8, seed=0), lambda r, d: float(d == "none"))
    config = PpoConfig(
        start_batches=5, replay_steps=2048, live_steps=64, lanes=256, live_learning_rate=0.0
    )
    trainer = Trainer(profile, synthetic_day(), {}, config, MemoryTracker())
    trainer.replay()
    replayed = trainer.result().policy
    trainer.live(trainer._replay_world())
    for kept, now in zip(replayed.layers, trainer.result().policy.layers, strict=True):
        assert now[0] == pytest.approx(kept[0], abs=1e-6)


def test_one_policy_serves_every_floor(tmp_path):
    # Half of the prompts lose their quality under any directive, and nothing tells which.
    requests = made.chats(200, {"lookup": "What is item {n}?"})
    lost = {request.request_id for request in requests[::2]}
    profile = made.profile(
        tmp_path, requests, lambda r, d: float(d == "none" or r.request_id not in lost)
    )
    trace, floors = synthetic_day(), {"lookup": 0.9}
    config = PpoConfig(start_batches=200, replay_steps=0, confidence=0.0, lanes=512)
    trainer = Trainer(profile, trace, floors, config, MemoryTracker())
    trainer.replay()
    trained = trainer.result()
    savings, qualities = [], []
    for floor in (0.6, 0.8, 0.9, 0.97):
        point = trained.front.point(trace.zone, "lookup", floor)
        figures = trained.front.figures(trace.zone, "lookup", point)
        assert floor <= figures["quality"] < floor + 0.1
        savings.append(1 - figures["grams_ratio"])
        qualities.append(figures["quality"])
    assert savings == sorted(savings, reverse=True)
    # The dirtiest hours come first, so more is saved than by answering the same share briefly.
    assert savings[1] > (1 - qualities[1]) / 0.5 * (1 - 2 / 50)


def test_the_supervised_start_imitates_the_best_directive_at_every_price(tmp_path):
    requests = made.chats(
        60, {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}
    )
    keeps = {"none": 1.0, "brief": 0.8, "very_brief": 0.4}
    profile = made.profile(tmp_path, requests, lambda r, d: 1.0 if r.task == "lookup" else keeps[d])
    config = PpoConfig(start_batches=300, replay_steps=0, lanes=512)
    trainer = Trainer(profile, synthetic_day(), {"lookup": 0.9}, config, MemoryTracker())
    trainer.replay()
    policy = trainer.result().policy
    world = trainer._replay_world()
    observations = world.reset(list(range(world.lanes)))
    chosen = policy.probabilities(observations)
    rewards = world.rewards_of_each()
    regret = rewards.max(axis=1) - (chosen * rewards).sum(axis=1)
    assert regret.mean() < 0.01
    # L0 and the cheapest directive alone are far from it: the price decides.
    for action in range(3):
        assert (rewards.max(axis=1) - rewards[:, action]).mean() > 0.03
