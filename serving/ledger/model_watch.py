"""Notices that a model was replaced under the same name, from the answers that are recorded.

Three signs: another model name in the answers, another `system_fingerprint`, and answers of another
length than in the policy's training. A fingerprint alone changes with every update of a server, so
it is only logged and counted.
"""

import base64
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, variance
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from envs.requests.features import LOG_ENERGY
from serving.ledger.manifests import Manifests
from serving.ledger.record import Record
from serving.settings.suspensions import Finding, Findings

# Answers under one directive that are judged together, each from another draw of the lottery.
WINDOW = 200
# Chance that a window is judged wrongly, for a model whose answers are, in the geometric mean, less
# than this factor longer or shorter than in training. With a million conversations a day, that is
# one false alarm in 20 days. A finding is dropped when a window under the same directive is within
# this factor again.
FALSE_ALARM = 1e-5
LEAST_CHANGE = 1.25
_Z = NormalDist().inv_cdf(1 - FALSE_ALARM / 2)
# Fewest answers in training behind a length.
_FEWEST = 20
_MOST_FINGERPRINTS = 20
NAME, LENGTH = "name", "length"
log = logging.getLogger("sprout")


@dataclass
class _Window:
    """Answers under one directive, each from another draw of the lottery.

    Attributes:
        draws: the draws.
        differences: for each of them, ln(1 + tokens) less what training foretells.
    """

    draws: set[str] = field(default_factory=set)
    differences: list[float] = field(default_factory=list)


@dataclass
class _Watched:
    """The facts known about the answers to one policy's requests.

    Attributes:
        models, fingerprints: those that are expected; empty until the first answer names one.
        fitting: answers in a row with an expected model.
        windows: the answers that are judged next, by directive.
    """

    models: set[str]
    fingerprints: set[str]
    fitting: int = 0
    windows: defaultdict[str, _Window] = field(default_factory=lambda: defaultdict(_Window))


class ModelWatch:
    """Compares the answers of the models behind the policies with their training.

    Attributes:
        findings: models whose answers do not fit.
    """

    def __init__(
        self, manifests: Manifests, findings: Findings, registry: CollectorRegistry
    ) -> None:
        self._manifests = manifests
        self.findings = findings
        self._watched: dict[str, _Watched] = {}
        self._changes = Counter(
            "sprout_model_changes_total",
            "Signs that a model was replaced: another name, fingerprint or length of its answers",
            ("model", "sign"),
            registry=registry,
        )
        self._length = Gauge(
            "sprout_answer_length_ratio",
            "Geometric mean of the answers' tokens, relative to the policy's training",
            ("model", "directive"),
            registry=registry,
        )

    def saw(self, records: Iterable[Record]) -> None:
        """Take the records of ended requests."""
        for record in records:
            version, model = record.policy_version, record.model
            manifest = self._manifests.by_version.get(version or "")
            if manifest is None or version is None or model is None or record.status != 200:
                continue
            if version not in self._watched:
                self._watched[version] = self._begin(manifest, version, model)
            watched = self._watched[version]
            self._compare_name(watched, record, version, model)
            self._compare_fingerprint(watched, record, model)
            self._compare_length(watched, record, manifest, version, model)

    def forget(self) -> None:
        """Drop all findings: an operator says that the models fit their policies."""
        self.findings.clear()
        self._watched.clear()

    def _begin(self, manifest: Mapping[str, Any], version: str, model: str) -> _Watched:
        """Return what is expected of a policy's model, and drop the findings of other policies."""
        kinds = self.findings.get(model, {})
        for kind in [kind for kind, finding in kinds.items() if finding.version != version]:
            self._clear(model, kind)
        answers = manifest.get("answers") or {}
        # A restart must not take the model that was found to be wrong for the expected one.
        found = self.findings.get(model, {}).get(NAME)
        models = answers.get("models") or (() if found is None else found.expected)
        return _Watched(set(models), set(answers.get("fingerprints") or ()))

    def _compare_name(self, watched: _Watched, record: Record, version: str, model: str) -> None:
        name = record.answer_model
        if not name:
            return
        if not watched.models:
            # The profile does not tell: the first answer does.
            watched.models.add(name)
        if name in watched.models:
            watched.fitting += 1
            if watched.fitting >= WINDOW:
                self._clear(model, NAME)
            return
        watched.fitting = 0
        expected = " or ".join(sorted(repr(known) for known in watched.models))
        self._find(
            model,
            NAME,
            version,
            f"its answers are from model {name!r}, and those that the policy was trained on from "
            f"{expected}; record a profile through this server and train again, serve the old "
            "model, or, if this one is right, run `sprout reload`",
            tuple(sorted(watched.models)),
        )

    def _compare_fingerprint(self, watched: _Watched, record: Record, model: str) -> None:
        fingerprint = record.fingerprint
        if not fingerprint or fingerprint in watched.fingerprints:
            return
        if len(watched.fingerprints) > _MOST_FINGERPRINTS:
            # It changes all the time, so it says nothing.
            return
        if watched.fingerprints:
            self._changes.labels(model, "fingerprint").inc()
            log.warning(
                "model %s: the answers' system_fingerprint is new (%s): the server or its settings "
                "have changed",
                model,
                fingerprint,
            )
        watched.fingerprints.add(fingerprint)

    def _compare_length(
        self,
        watched: _Watched,
        record: Record,
        manifest: Mapping[str, Any],
        version: str,
        model: str,
    ) -> None:
        draw, foretold = record.conversation, _foretold_length(record, manifest)
        if foretold is None or draw is None:
            return
        window = watched.windows[foretold.directive]
        if draw in window.draws:
            return
        window.draws.add(draw)
        window.differences.append(math.log1p(record.completion_tokens or 0) - foretold.mean)
        if len(window.differences) < WINDOW:
            return
        del watched.windows[foretold.directive]
        mean = sum(window.differences) / WINDOW
        error = math.sqrt(variance(window.differences) / WINDOW + foretold.error**2)
        ratio, kind = math.exp(mean), f"{LENGTH} {foretold.directive}"
        self._length.labels(model, foretold.directive).set(ratio)
        if abs(mean) <= math.log(LEAST_CHANGE):
            self._clear(model, kind)
        elif abs(mean) - math.log(LEAST_CHANGE) > _Z * error:
            self._find(
                model,
                kind,
                version,
                f"its answers under {foretold.directive} have {ratio:.2f} times as many tokens as "
                f"in the policy's training (geometric mean of {WINDOW}): the model or the kind of "
                "requests has changed; record a profile of your traffic and train again, or, if "
                "the answers are right, run `sprout reload`",
            )

    def _find(
        self, model: str, kind: str, version: str, text: str, expected: tuple[str, ...] = ()
    ) -> None:
        if kind not in self.findings.get(model, {}):
            self._changes.labels(model, kind).inc()
            finding = Finding(version=version, text=text, expected=expected)
            self.findings.setdefault(model, {})[kind] = finding

    def _clear(self, model: str, kind: str) -> None:
        kinds = self.findings.get(model, {})
        kinds.pop(kind, None)
        if not kinds:
            self.findings.pop(model, None)


class _Length(NamedTuple):
    """The length that training foretells of an answer, as ln(1 + tokens), and its own error."""

    directive: str
    mean: float
    error: float


def _foretold_length(record: Record, manifest: Mapping[str, Any]) -> _Length | None:
    """Return the foretold length of a request's answer; None if it is not to be compared.

    Only openings are compared, because training knows no later turns. Given the observation, the
    policy's choice says nothing about the length, so that all directives can be used.
    """
    comparable = (
        record.opening
        and record.features is not None
        and record.completion_tokens is not None
        and record.outcome == "completed"
        and record.tokens_method == "reported"
    )
    if not comparable:
        return None
    directive = record.directive if record.applied else "none"
    line = ((manifest.get("foretold") or {}).get("lengths") or {}).get(directive)
    if not line or line["count"] < _FEWEST:
        return None
    names = [feature["name"] for feature in manifest["features"]]
    x, feature = 0.0, f"{LOG_ENERGY}{directive}"
    if feature in names:
        observation = np.frombuffer(base64.b64decode(record.features or ""), np.float32)
        x = float(observation[names.index(feature)])
    return _Length(directive, line["intercept"] + line["slope"] * x, line["error"])
