"""The `sprout` program. Each command is a module of its own, imported only when it is used."""

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
    "profile": (
        "experiments.record.profile:ProfileCommand",
        "record the outcomes of all directives",
    ),
    "judge": (
        "experiments.record.judge:JudgeCommand",
        "let a language model judge a profile's answers",
    ),
    "import": (
        "experiments.importing:IMPORTS",
        "import outcomes from elsewhere: emnlp24-sprout, csv",
    ),
    "episodes": (
        "experiments.record.episodes:Episodes",
        "record replayed episodes as a Minari dataset",
    ),
    "calibrate": (
        "experiments.record.calibrate:Calibrate",
        "measure a server's joules by kind of work",
    ),
    "train": ("experiments.train.command:Train", "train a policy bundle from a profile"),
    "bundle": ("experiments.train.from_sb3:BUNDLES", "make a policy bundle: from-sb3"),
    "evaluate": ("experiments.evaluate.command:Evaluate", "compare methods and policies, paired"),
    "crossvalidate": (
        "experiments.study.crossvalidate:CrossValidate",
        "train and evaluate by folds, on unseen prompts",
    ),
    "ablate": (
        "experiments.study.ablate:Ablate",
        "compare variants over seeds: the value of each part",
    ),
    "frontier": (
        "experiments.operate.frontier:Frontier",
        "what each quality floor saves, from a bundle alone",
    ),
    "explain": ("experiments.operate.explain:Explain", "explain a policy's choices"),
    "link": ("experiments.operate.link:Link", "record the lineage of synced W&B runs"),
    "reproduce": ("experiments.reproduce:REPRODUCTIONS", "reproduce published tables: sprout"),
    "serve": ("experiments.operate.serve:Serve", "run the hook in front of a Llama server"),
    "mode": (
        "experiments.operate.mode:ModeCommand",
        "show or change the hook's mode; kill switch",
    ),
    "floor": (
        "experiments.operate.floor:FloorCommand",
        "show or change the quality floors, without a training",
    ),
    "reload": (
        "experiments.operate.mode:Reload",
        "load the bundles again; steer suspended models",
    ),
    "quality": (
        "experiments.operate.quality.table:Quality",
        "the quality of live answers by task, and the guard's state",
    ),
    "review": (
        "experiments.operate.quality.review:Review",
        "compare pairs of live answers, blind",
    ),
    "status": ("experiments.operate.status:Status", "state of a gateway and its replicas"),
    "rules": (
        "experiments.operate.settings_commands:RULES",
        "operators' rules of the hook: set, try",
    ),
    "ledger": (
        "experiments.operate.settings_commands:LEDGER",
        "records of the hook: export, delete, savings, shadow",
    ),
    "bench": (
        "experiments.bench:BENCHES",
        "benchmarks: loop, directives, env, start, train, decide, gateway, soak, savings, "
        "guard, watch, hours, attribution, gpu",
    ),
    "pretrain": ("experiments.llama.command:Pretrain", "train the embedded Llama from scratch"),
    "doctor": ("experiments.operate.doctor:Doctor", "report what can run on this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run `sprout` and return its exit status.

    An error that the user can fix is printed as one line on standard error.

    Args:
        arguments: command and flags; None takes them from the command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # On SIGTERM the program cleans up as on Ctrl-C.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        check_packages()
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        _run(arguments)
    except SproutError as error:
        print(f"sprout: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # E.g. a folder that cannot be created, a file that cannot be written, or a full disk.
        print(f"sprout: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        root = (error.name or "").split(".")[0]
        if root in COMMANDS or root in ("envs", "agents", "serving", "experiments"):
            raise
        print(
            f"sprout: package {root!r} is not installed; "
            f"pip install 'sprout-rl[train]' (or 'sprout-rl[serve]' for the hook alone)",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("sprout: interrupted", file=sys.stderr)
        return 130
    return 0


def usage() -> str:
    """Return the help text with the list of commands."""
    rows = "\n".join(f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: sprout COMMAND [flags]\n\n{rows}\n\n`sprout COMMAND --help` lists its flags."


def check_packages() -> None:
    """Check that no other distribution's packages are imported under the same names.

    `agents`, for example, is also the import name of the openai-agents distribution.

    Raises:
        ConfigError: a package of another distribution was imported.
    """
    root = Path(__file__).resolve().parent.parent
    for package in (agents, envs):
        package_root = Path(package.__file__ or "").resolve().parent.parent
        if package_root != root:
            raise ConfigError(
                f"package {package.__name__!r} is not sprout-rl's, but "
                f"{package_root / package.__name__}; install sprout-rl in a separate environment"
            )


def _run(arguments: list[str]) -> None:
    from experiments.settings import run_command

    name, *flags = arguments
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}; give one of {', '.join(COMMANDS)}")
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if isinstance(command, dict):
        if flags and flags[0] in ("-h", "--help"):
            print(f"usage: sprout {name} WHAT [flags]; WHAT is one of {', '.join(command)}")
            return
        if not flags or flags[0] not in command:
            raise ConfigError(f"sprout {name}: give one of {', '.join(command)}")
        name, flags, command = f"{name} {flags[0]}", flags[1:], command[flags[0]]
    run_command(command, name, flags)


def _terminated(number: int, frame: object) -> None:
    # A second signal must not interrupt the clean-up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
