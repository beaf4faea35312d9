"""The feed of a live carbon-intensity source, with a counter of its fetches."""

from prometheus_client import CollectorRegistry, Counter

from envs.carbon.live.choose import make_source
from envs.carbon.live.feed import Feed
from serving.settings.hook import HookConfig


def make_feed(config: HookConfig, registry: CollectorRegistry) -> Feed | None:
    """Return a feed that is not started yet, or None if the intensity comes from a trace.

    Raises:
        ConfigError: the source's settings are wrong.
    """
    settings = config.live
    if settings is None:
        return None
    fetches = Counter(
        "sprout_intensity_fetches",
        "Fetches from the carbon-intensity source, by data and result",
        ("what", "result"),
        registry=registry,
    )
    for what in ("readings", "forecast"):
        fetches.labels(what, "ok")

    def count(what: str, result: str) -> None:
        fetches.labels(what, result).inc()

    source = make_source(settings)
    return Feed(source, config.outlook, config.intensity_mean or 0.0, count)
