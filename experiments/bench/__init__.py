"""Benchmark commands. Each prints its figures with their spread and can also write JSON."""

from experiments.bench.attribution import AttributionBench
from experiments.bench.decide import DecideBench
from experiments.bench.directives import DirectivesBench
from experiments.bench.env import EnvBench
from experiments.bench.gateway import GatewayBench
from experiments.bench.gpu.command import GpuBench
from experiments.bench.loop import LoopBench
from experiments.bench.quality.guard import GuardBench
from experiments.bench.quality.hours import HoursBench
from experiments.bench.quality.overhead import WatchBench
from experiments.bench.savings import SavingsBench
from experiments.bench.soak import SoakBench
from experiments.bench.start import StartBench
from experiments.bench.train import TrainBench

BENCHES = {
    "attribution": AttributionBench,
    "loop": LoopBench,
    "directives": DirectivesBench,
    "env": EnvBench,
    "start": StartBench,
    "train": TrainBench,
    "decide": DecideBench,
    "gateway": GatewayBench,
    "gpu": GpuBench,
    "soak": SoakBench,
    "savings": SavingsBench,
    "guard": GuardBench,
    "watch": WatchBench,
    "hours": HoursBench,
}
