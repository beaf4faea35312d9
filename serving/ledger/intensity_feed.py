"""The feed of a live source of carbon intensity, with metrics of how it goes."""

from prometheus_client import CollectorRegistry, Counter

from envs.carbon.live.choose import make_source
from envs.carbon.live.feed import Feed
from serving.settings.hook import HookConfig


def make_feed(config: HookConfig, registry: CollectorRegistry) -> Feed | None:
    """A feed that is yet to be started; None where the intensity is a trace's.

    Raises:
        ConfigError: the source's settings are wrong.
    """
    asked = config.live
    if asked is None:
        return None
    fetches = Counter(
        "sprout_intensity_fetches",
        "Questions to the source of carbon intensity, by what came of them",
        ("what", "result"),
        registry=registry,
    )
    for what in ("readings", "forecast"):
        fetches.labels(what, "ok")

    def count(what: str, result: str) -> None:
        fetches.labels(what, result).inc()

    source = make_source(asked)
    return Feed(source, config.outlook, config.intensity_mean or 0.0, count)
