"""Recipes: pipeline text, presets, recipe files and per-layer overrides, validated before a model is touched."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dc_compiler.errors import InvalidArgumentError
from dc_compiler.nearest import nearest
from dc_compiler.pass_manager import Override, Pass, PassManager, available_passes

DEFAULT_MIN_SIZE = 1024
MEASURED_MIN_SIZE = 16  # where a step is found by what rounding does to the outputs, that of small weights counts too
Form = Literal["session", "graph"]
FORMS = ("session", "graph")
# auto takes sparse where layers gain, and int8 only where a drop is allowed and can be measured
Execution = Literal["auto", "dense", "sparse", "int8"]
EXECUTIONS = ("auto", "dense", "sparse", "int8")
INT8_POINTS = 120  # of a grid on each side of zero: rounding of its scale and of sums of errors takes a few more


@dataclass(frozen=True)
class Preset:
    """A named pipeline; one for where there are samples to calibrate on, whose step is found on them
    (:mod:`dc_compiler.calibration.tuning`); another one where there are samples to train on, whose settings come from
    the model and the samples (:mod:`dc_compiler.training.presets`), and what to take where its result is too bad (None:
    the first); whether losses are checked against a promise or only reported; the element floor; and whether the step
    of the first is found without data (:mod:`dc_compiler.calibration.tolerance`).
    """

    pipeline: str
    calibrated: str | None = None
    trained: str | None = None
    fallback: str | None = None
    promises: bool = False
    min_size: int = DEFAULT_MIN_SIZE
    finds_step: bool = False


PRESETS: dict[str, Preset] = {
    # float bits unchanged, entropy-coded by byte planes
    "lossless": Preset("encode(lossless)", promises=True),
    # a grid per output channel, entropy-coded; without data as coarse as is safe, near-lossless where that is not known
    "default": Preset(
        "canonicalize,cluster(grid),encode",
        calibrated="canonicalize,"
        "cluster(grid,step=0.5,calibrate=true,rate=0.3,allocate=true,sequential=true,shorten=true),encode",
        promises=True,
        finds_step=True,
    ),
    # the paper's three stages at the paper's usual settings (arXiv 1510.00149): 16 epochs of training at most
    "deep-compression": Preset(
        "canonicalize,prune,cluster(kmeans),encode(huffman)",
        trained="canonicalize,prune(schedule=iterative,steps=3,epochs=12),cluster(kmeans),"
        "finetune(centroids,epochs=4,lr=0.0003),encode(huffman)",
        fallback="canonicalize,cluster(grid),encode",
    ),
    # a coarse grid, coarser where that is safe; with data everything that makes files small. The density, rates and
    # epochs stand for what is found out; with --density they hold
    "smallest": Preset(
        "canonicalize,cluster(grid,step=0.15),slim,encode(smallest)",
        trained="canonicalize,prune(density=0.05,scope=global,criterion=obd,schedule=gradual,epochs=24,lr=0.002),shrink,"
        "cluster(rd,bits=4,price=0.01,epochs=16,vectors=true),shrink(sort=true),slim,encode(smallest)",
        min_size=0,
        finds_step=True,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that, with the model and the seed, decides the output's bytes.

    ``explicit`` tells that the user spelled out what to do to the weights, so that losses are reported, not refused.
    ``fallback`` is the pipeline without training of a preset that finds out its settings by training, else None;
    ``uncalibrated`` the one without calibration of a preset that finds out its step on samples. ``finds_step`` tells
    that the pipeline is one whose step is to be found without data.
    """

    pipeline: str
    preset: str | None = None
    overrides: tuple[Override, ...] = ()
    skip: tuple[str, ...] = ()
    min_size: int = DEFAULT_MIN_SIZE
    emit: Form = "session"
    execution: Execution = "auto"
    seed: int = 0
    explicit: bool = False
    fallback: str | None = None
    uncalibrated: str | None = None
    finds_step: bool = False
    passes: tuple[Pass, ...] = field(default=(), compare=False)

    def without_calibration(self) -> Recipe:
        """The recipe with the preset's pipeline for models without data."""
        assert self.uncalibrated is not None
        finds_step = self.preset is not None and PRESETS[self.preset].finds_step
        return replace(self, pipeline=self.uncalibrated, uncalibrated=None, finds_step=finds_step, passes=())

    @property
    def prunes_trees(self) -> bool:
        """Whether a pass prunes tree ensembles, which it can do within a drop."""
        return any(p.name == "prune" and "trees=true" in p.text() for p in self.manager().passes)

    def with_tree_drop(self, drop: float) -> Recipe:
        """The recipe whose trees are pruned within this drop, in points, unless it says another."""
        passes = self.manager().passes
        options = {"drop": repr(drop)}
        passes = [p.with_options(options) if p.name == "prune" and "drop=" not in p.text() else p for p in passes]
        return replace(self, passes=tuple(passes), pipeline=PassManager(passes).text())

    def in_int8(self) -> Recipe:
        """The recipe for layers that run in int8: with grids that fit it."""
        return replace(
            self,
            execution="int8",
            pipeline=_with_few_points(self.pipeline),
            uncalibrated=None if self.uncalibrated is None else _with_few_points(self.uncalibrated),
            fallback=None if self.fallback is None else _with_few_points(self.fallback),
            passes=(),
        )

    def to_toml(self, pipeline: str) -> str:
        """The recipe as a file for ``--recipe``, with the pipeline that was found for it."""
        way = f"preset = {_quoted('lossless')}" if self.preset == "lossless" else f"pipeline = {_quoted(pipeline)}"
        lines = [way, f"emit = {_quoted(self.emit)}", f"execution = {_quoted(self.execution)}"]
        lines += [f"min_size = {self.min_size}", f"seed = {self.seed}"]
        lines += [f"skip = [{', '.join(map(_quoted, self.skip))}]"] if self.skip else []
        for override in self.overrides:
            options = [f"{_quoted(k)} = {_quoted(v)}" for k, v in override.options.items()]
            lines += ["", f"[layers.{_quoted(override.pattern)}]", *options]
        return "\n".join(lines) + "\n"

    def manager(self) -> PassManager:
        """The pipeline ready to run.

        Raises:
            InvalidArgumentError: unknown pass or option, bad value, or a wrong order.
        """
        return PassManager(self.passes or parse_pipeline(self.pipeline))


def make_recipe(
    *,
    preset: str | None = None,
    pipeline: str | None = None,
    recipe: str | Path | None = None,
    density: float | None = None,
    bits: int | None = None,
    overrides: Iterable[str] = (),
    skip: Iterable[str] = (),
    emit: str | None = None,
    execution: str | None = None,
    min_size: int | None = None,
    seed: int | None = None,
    has_data: bool = False,
) -> Recipe:
    """Combine a preset, a pipeline text or a recipe file with single options; single options win.

    Args:
        density: kept share of each weight, in (0, 1]; adds ``prune`` to a pipeline without it.
        bits: codebook bits, 1 to 16; turns clustering into k-means with ``2**bits`` entries.
        overrides: texts ``GLOB:key=value,...``.
        has_data: there are samples, so a preset may train.

    Raises:
        InvalidArgumentError: anything unknown, contradictory or out of range.
    """
    if sum(x is not None for x in (preset, pipeline, recipe)) > 1:
        raise InvalidArgumentError("give only one of --preset, --pipeline and --recipe")
    can_measure = density is None and bits is None
    base = (
        _from_file(Path(recipe), has_data, can_measure)
        if recipe is not None
        else _from_text(preset, pipeline, has_data, can_measure)
    )
    result = replace(
        base,
        overrides=base.overrides + tuple(parse_override(t) for t in overrides),
        skip=base.skip + tuple(skip),
        emit=base.emit if emit is None else emit,  # type: ignore[arg-type]  # checked below
        execution=base.execution if execution is None else execution,  # type: ignore[arg-type]  # checked below
        min_size=base.min_size if min_size is None else min_size,
        seed=base.seed if seed is None else seed,
    )
    if result.emit not in FORMS:
        raise InvalidArgumentError(f"emit {result.emit} is not valid; give session or graph")
    if result.execution not in EXECUTIONS:
        raise InvalidArgumentError(f"execution {result.execution} is not valid; give {', '.join(EXECUTIONS)}")
    if result.execution == "sparse" and result.emit == "graph":
        raise InvalidArgumentError(
            "--execution sparse needs the session form, in which the library can still run a layer dense where that is "
            "faster; leave --emit graph out"
        )
    if result.min_size < 0:
        raise InvalidArgumentError(f"min-size {result.min_size} is not valid; give 0 or more")
    if not 0 <= result.seed < 2**63:
        raise InvalidArgumentError(f"seed {result.seed} is not valid; give 0 or more")
    result = _with_shortcuts(result, density, bits)
    return result.in_int8() if result.execution == "int8" else result


def _with_few_points(text: str) -> str:
    """A pipeline whose grids have so few points that they fit int8, where it does not say how many."""
    passes = parse_pipeline(text)
    grids = [p for p in passes if p.name == "cluster" and "mode=grid" in p.text() and "points=" not in p.text()]
    return PassManager([p.with_options({"points": str(INT8_POINTS)}) if p in grids else p for p in passes]).text()


def _from_text(preset: str | None, pipeline: str | None, has_data: bool, can_measure: bool) -> Recipe:
    if pipeline is not None:
        return Recipe(pipeline, explicit=True)
    name = "default" if preset is None else preset
    if name not in PRESETS:
        raise InvalidArgumentError(f"unknown preset '{name}'; known: {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    chosen = PRESETS[name]
    text = chosen.trained if has_data and chosen.trained is not None else chosen.pipeline
    fallback = (chosen.fallback or chosen.pipeline) if has_data and chosen.trained is not None else None
    plain = None
    if fallback is None and has_data and can_measure and chosen.calibrated is not None:
        text, plain = chosen.calibrated, chosen.pipeline
    finds_step = can_measure and chosen.finds_step and text == chosen.pipeline
    floor = min(chosen.min_size, MEASURED_MIN_SIZE) if finds_step or plain is not None else chosen.min_size
    return Recipe(
        text, preset=name, explicit=not chosen.promises, min_size=floor, fallback=fallback, uncalibrated=plain,
        finds_step=finds_step,
    )  # fmt: skip


def _with_shortcuts(recipe: Recipe, density: float | None, bits: int | None) -> Recipe:
    """Apply ``--density`` and ``--bits`` to the pipeline's passes."""
    passes = parse_pipeline(recipe.pipeline)
    known = available_passes()
    if density is not None:
        options = {"density": repr(density)}
        if any(p.name == "prune" for p in passes):
            passes = [p.with_options(options) if p.name == "prune" else p for p in passes]
        else:
            position = max((i for i, p in enumerate(passes, 1) if "pruned" in p.forbids), default=0)
            passes.insert(position, known["prune"].from_text(options))
    if bits is not None:
        options = {"bits": str(bits), "mode": "kmeans"}
        if any(p.name == "cluster" for p in passes):
            passes = [p.with_options(options) if p.name == "cluster" else p for p in passes]
        else:
            position = next((i for i, p in enumerate(passes) if p.name == "encode"), len(passes))
            passes.insert(position, known["cluster"].from_text(options))
            passes = [p.with_options({"coder": "auto"}) if p.name == "encode" else p for p in passes]
    manager = PassManager(passes)
    is_set = density is not None or bits is not None
    fallback = None if is_set else recipe.fallback
    text, explicit = manager.text(), recipe.explicit or is_set
    return replace(recipe, passes=tuple(passes), pipeline=text, explicit=explicit, fallback=fallback)


_PASS = re.compile(r"\s*([a-z][a-z0-9_-]*)\s*(?:\(([^()]*)\))?\s*(,|$)")


def parse_pipeline(text: str) -> list[Pass]:
    """Parse ``name(key=value,word),name,...``; a bare word sets the option of that name to true, or else the pass's
    positional option.

    Raises:
        InvalidArgumentError: syntax, unknown pass, unknown option, or bad value.
    """
    passes = []
    position = 0
    while True:
        match = _PASS.match(text, position)
        if match is None:
            raise InvalidArgumentError(
                f"pipeline '{text}' is not valid at '{text[position:][:20]}'; write pass(option=value,...),pass"
            )
        passes.append(_make_pass(match[1], match[2] or ""))
        position = match.end()
        if not match[3]:
            return passes


def _make_pass(name: str, arguments: str) -> Pass:
    known = available_passes()
    if name not in known:
        raise InvalidArgumentError(f"unknown pass '{name}'; known: {', '.join(sorted(known))}{nearest(name, known)}")
    kind = known[name]
    options: dict[str, str] = {}
    for argument in filter(None, (a.strip() for a in arguments.split(","))):
        key, equals, value = argument.partition("=")
        if not equals:
            if kind.option_types().get(argument) is bool:  # prune(trees)
                key, value = argument, "true"
            elif kind.positional is None:
                raise InvalidArgumentError(f"{name}: '{argument}' is not valid; write option=value")
            else:
                key, value = kind.positional, argument
        if key.strip() in options:
            raise InvalidArgumentError(f"{name}: option '{key.strip()}' is given twice")
        options[key.strip()] = value.strip()
    return kind.from_text(options)


def parse_override(text: str) -> Override:
    """Parse ``GLOB:key=value,...``; the glob may contain colons, the options may not.

    Raises:
        InvalidArgumentError
    """
    pattern, colon, options = text.rpartition(":")
    pairs = [p.partition("=") for p in options.split(",")]
    if not colon or not pattern or not all(k.strip() and e and v.strip() for k, e, v in pairs):
        raise InvalidArgumentError(f"--set '{text}' is not valid; write 'GLOB:key=value,...'")
    return Override(pattern, {k.strip(): v.strip() for k, _, v in pairs})


def _from_file(path: Path, has_data: bool, can_measure: bool) -> Recipe:
    """Read a TOML recipe: ``pipeline`` or ``preset``, ``emit``, ``execution``, ``min_size``, ``seed``, ``skip``,
    ``[layers."GLOB"]``.

    Raises:
        InvalidArgumentError: unreadable, not TOML, unknown keys, or wrong types.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidArgumentError(f"recipe {path} cannot be read: {e}") from None
    except tomllib.TOMLDecodeError as e:
        raise InvalidArgumentError(f"recipe {path} is not valid TOML: {e}") from None
    kinds: dict[str, type] = {
        "pipeline": str, "preset": str, "emit": str, "execution": str, "min_size": int, "seed": int, "skip": list,
        "layers": dict,
    }  # fmt: skip
    for key, value in content.items():
        if key not in kinds:
            raise InvalidArgumentError(
                f"recipe {path}: unknown key '{key}'; known: {', '.join(kinds)}{nearest(key, kinds)}"
            )
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise InvalidArgumentError(f"recipe {path}: '{key}' must be a {kinds[key].__name__}")
    if "pipeline" in content and "preset" in content:
        raise InvalidArgumentError(f"recipe {path}: give only one of 'pipeline' and 'preset'")
    base = _from_text(content.get("preset"), content.get("pipeline"), has_data, can_measure)
    return replace(
        base,
        overrides=tuple(_layer(path, glob, options) for glob, options in content.get("layers", {}).items()),
        skip=tuple(map(str, content.get("skip", []))),
        emit=content.get("emit", base.emit),
        execution=content.get("execution", base.execution),
        min_size=content.get("min_size", base.min_size),
        seed=content.get("seed", base.seed),
    )


def _quoted(text: str) -> str:
    """A TOML string, whose escapes are JSON's but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _layer(path: Path, glob: str, options: Any) -> Override:
    if not isinstance(options, Mapping) or not options:
        raise InvalidArgumentError(f"recipe {path}: layers.'{glob}' must be a table of options")
    return Override(glob, {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in options.items()})
