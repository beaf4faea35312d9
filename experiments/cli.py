"""The `sprout` program: one sub-command a module, loaded only when it is asked for."""

import importlib
import signal
import sys
from pathlib import Path

import agents
import envs
from envs.errors import ConfigError, SproutError

COMMANDS = {
    "demo": ("experiments.demo.command:Demo", "the whole loop on the embedded Llama"),
    "llama": ("experiments.llama.command:Llama", "start a live Llama server"),
    "profile": ("experiments.record.profile:ProfileCommand", "record every directive's outcomes"),
    "import": (
        "experiments.importing:IMPORTS",
        "foreign outcomes: emnlp24-sprout, csv",
    ),
    "calibrate": ("experiments.record.calibrate:Calibrate", "joules of a server's work, by load"),
    "train": ("experiments.train.command:Train", "train a policy bundle from a profile"),
    "bundle": ("experiments.train.from_sb3:BUNDLES", "policy bundles: from-sb3"),
    "evaluate": ("experiments.evaluate.command:Evaluate", "compare methods and policies, paired"),
    "crossvalidate": (
        "experiments.study.crossvalidate:CrossValidate",
        "train and judge by folds: prompts never seen",
    ),
    "ablate": ("experiments.study.ablate:Ablate", "what each part is worth: seeds x variants"),
    "explain": ("experiments.operate.explain:Explain", "why a policy chooses what it does"),
    "link": ("experiments.operate.link:Link", "the lineage of synced W&B runs"),
    "reproduce": ("experiments.reproduce:REPRODUCTIONS", "published tables, side by side: sprout"),
    "serve": ("experiments.operate.serve:Serve", "the hook in front of a Llama server"),
    "mode": (
        "experiments.operate.settings_commands:ModeCommand",
        "the hook's kill switch and modes, at run time",
    ),
    "rules": (
        "experiments.operate.settings_commands:RULES",
        "operators' rules for the hook: set, try",
    ),
    "ledger": (
        "experiments.operate.settings_commands:LEDGER",
        "the hook's records: export, delete, savings",
    ),
    "bench": (
        "experiments.bench:BENCHES",
        "benchmarks: loop, directives, env, start, train, decide, gateway, soak, attribution, gpu",
    ),
    "pretrain": ("experiments.llama.command:Pretrain", "train the embedded Llama from scratch"),
    "doctor": ("experiments.operate.doctor:Doctor", "what this machine has and lacks"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run `sprout`; errors that a user can mend are one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A terminated program cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        check_packages()
        if not given or given[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        _run(given)
    except SproutError as error:
        print(f"sprout: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # A folder that cannot be made, a file that cannot be written, a disk that is full.
        print(f"sprout: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        root = (error.name or "").split(".")[0]
        if root in COMMANDS or root in ("envs", "agents", "serving", "experiments"):
            raise
        print(
            f"sprout: package {root!r} is not installed; "
            f"pip install 'sprout-rl[train]' (or [serve] for the hook alone)",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("sprout: interrupted", file=sys.stderr)
        return 130
    return 0


def usage() -> str:
    """The list of commands."""
    rows = "\n".join(f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: sprout COMMAND [flags]\n\n{rows}\n\n`sprout COMMAND --help` lists its flags."


def check_packages() -> None:
    """Refuse to run on somebody else's packages of the same import names.

    Raises:
        ConfigError: `agents` is also the import name of the openai-agents distribution.
    """
    ours = Path(__file__).resolve().parent.parent
    for package in (agents, envs):
        found = Path(package.__file__ or "").resolve().parent.parent
        if found != ours:
            raise ConfigError(
                f"package {package.__name__!r} is not ours but {found / package.__name__}; "
                "install sprout-rl in an environment of its own"
            )


def _run(given: list[str]) -> None:
    from experiments.settings import run_command

    name, *rest = given
    if name not in COMMANDS:
        raise ConfigError(f"no command {name!r}; one of {', '.join(COMMANDS)}")
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if isinstance(command, dict):
        if rest and rest[0] in ("-h", "--help"):
            print(f"usage: sprout {name} WHAT [flags]; WHAT is one of {', '.join(command)}")
            return
        if not rest or rest[0] not in command:
            raise ConfigError(f"sprout {name}: one of {', '.join(command)}")
        name, rest, command = f"{name} {rest[0]}", rest[1:], command[rest[0]]
    run_command(command, name, rest)


def _terminated(number: int, frame: object) -> None:
    # Only once: a second signal must not interrupt the clean-up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
