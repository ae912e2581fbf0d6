"""Recipes and the pass manager: pipeline text, presets, overrides, order, third-party passes, broken invariants."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.graphs import GRAPHS

from dc_compiler import compile_model, ir, unpack_model
from dc_compiler.cli import main
from dc_compiler.errors import DccError, InvalidArgumentError, PassError
from dc_compiler.pass_manager import Context, Override, Pass, PassManager, PassReport, available_passes
from dc_compiler.passes.cluster import Cluster
from dc_compiler.passes.encode import Encode
from dc_compiler.passes.prune import Prune
from dc_compiler.recipe import PRESETS, make_recipe, parse_override, parse_pipeline

# Pipeline text ------------------------------------------------------------------------------------------------------

positive = st.floats(0, 1, exclude_min=True)
prunes = st.one_of(
    st.builds(Prune, density=st.none() | positive),
    st.builds(Prune, density=positive, scope=st.just("global")),
    st.builds(Prune, threshold=st.floats(0, 1e6)),
)
clusters = st.builds(
    Cluster,
    mode=st.sampled_from(["kmeans", "grid"]),
    bits=st.none() | st.integers(1, 16),
    init=st.sampled_from(["linear", "density", "forgy"]),
    scales=st.sampled_from(["none", "channel"]),
    step=st.floats(0, 16, exclude_min=True),
)
encodes = st.builds(
    Encode, coder=st.sampled_from(["auto", "huffman", "rans", "fixed", "lossless"]), position_bits=st.integers(0, 16)
)


@given(st.lists(st.one_of(prunes, clusters, encodes), min_size=1, max_size=4))
def test_text_round_trip(passes: list[Pass]) -> None:
    assert parse_pipeline(",".join(p.text() for p in passes)) == passes


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("encode", [Encode()]),
        (" encode ( huffman ) ", [Encode(coder="huffman")]),
        ("encode()", [Encode()]),
        ("prune(0.1),encode", [Prune(density=0.1), Encode()]),
        ("prune( density = .5 , scope = global ) , encode", [Prune(density=0.5, scope="global"), Encode()]),
        ("cluster(grid,step=1e-1),encode(rans)", [Cluster(mode="grid", step=0.1), Encode(coder="rans")]),
        ("cluster(bits=4,kmeans),encode", [Cluster(bits=4), Encode()]),
        ("prune\n,encode", [Prune(), Encode()]),
    ],
)
def test_parsing(text: str, passes: list[Pass]) -> None:
    assert parse_pipeline(text) == passes


@given(st.text(alphabet="encodprustl(),= .0123456789-\n\u00e9", max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        passes = parse_pipeline(text)
    except InvalidArgumentError:
        return
    assert parse_pipeline(",".join(p.text() for p in passes)) == passes


def test_text_shows_what_differs_from_the_defaults() -> None:
    assert Encode().text() == "encode"
    assert Cluster(mode="grid", step=0.1).text() == "cluster(mode=grid,step=0.1)"


# Presets and shortcuts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_pipelines(name: str) -> None:
    recipe = make_recipe(preset=name)
    assert recipe.manager().passes == parse_pipeline(PRESETS[name].pipeline)
    assert not any(p.needs_samples for p in recipe.manager().passes)
    assert recipe.explicit == (name in ("deep-compression", "smallest"))


@pytest.mark.parametrize("name", ["deep-compression", "smallest"])
def test_presets_train_when_there_is_data(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(f'preset = "{name}"\n')
    for recipe in (make_recipe(preset=name, has_data=True), make_recipe(recipe=file, has_data=True)):
        assert recipe.manager().passes == parse_pipeline(PRESETS[name].trained or "")
        assert any(p.needs_samples for p in recipe.manager().passes)
    with_density = make_recipe(preset=name, density=0.25, has_data=True)
    assert "density=0.25" in with_density.pipeline


def test_no_preset_is_the_default() -> None:
    assert make_recipe() == make_recipe(preset="default")


@pytest.mark.parametrize(
    ("options", "pipeline"),
    [
        ({"density": 0.1}, "canonicalize,prune(density=0.1),cluster(mode=grid),encode"),
        ({"bits": 4}, "canonicalize,cluster(bits=4),encode"),
        ({"density": 1, "bits": 16}, "canonicalize,prune(density=1.0),cluster(bits=16),encode"),
        ({"preset": "lossless", "bits": 4}, "cluster(bits=4),encode"),
        ({"preset": "lossless", "density": 0.5}, "prune(density=0.5),encode(coder=lossless)"),
        (
            {"preset": "deep-compression", "density": 0.5},
            "canonicalize,prune(density=0.5),cluster,encode(coder=huffman)",
        ),
        ({"pipeline": "encode", "density": 0.5, "bits": 2}, "prune(density=0.5),cluster(bits=2),encode"),
        ({"pipeline": "prune(0.9),encode", "density": 0.5}, "prune(density=0.5),encode"),
    ],
    ids=str,
)
def test_shortcuts(options: dict[str, Any], pipeline: str) -> None:
    recipe = make_recipe(**options)
    assert recipe.manager().text() == pipeline
    assert recipe.explicit


# Overrides, skip, minimum size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern", "options"),
    [
        ("w:bits=3", "w", {"bits": "3"}),
        ("a:b/c:0*:bits=3,mode=kmeans", "a:b/c:0*", {"bits": "3", "mode": "kmeans"}),
        ("* : bits = 3 ", "* ", {"bits": "3"}),
    ],
)
def test_override_text(text: str, pattern: str, options: dict[str, str]) -> None:
    assert parse_override(text) == Override(pattern, options)


def codebook_sizes(**options: Any) -> dict[str, int | None]:
    """Codebook entries of each weight of a model with the matrices w and w.dcc."""
    net, _ = GRAPHS["names_of_ours"]()
    return {t.name: t.codebook for t in compile_model(net, **options).report.tensors}


def test_the_last_override_wins() -> None:
    sizes = codebook_sizes(bits=6, set=["*:bits=2", "w:bits=3", "w.dc?:bits=5", "w.dcc:bits=4"])
    assert sizes["w"] == 8
    assert sizes["w.dcc"] == 16


def test_options_of_the_command_follow_those_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('pipeline = "cluster(bits=6),encode"\n[layers."*"]\nbits = 2\n[layers.w]\nbits = 3\n')
    assert codebook_sizes(recipe=path)["w"] == 8
    assert codebook_sizes(recipe=path, set="w:bits=5")["w"] == 32
    assert codebook_sizes(recipe=path)["w.dcc"] == 4


def test_only_what_may_differ_from_weight_to_weight_is_overridden() -> None:
    """Every other option would be ignored without a word."""
    pipeline = "prune(density=0.5),cluster,finetune(centroids),shrink,slim,encode"
    passes = {p.name: type(p) for p in parse_pipeline(pipeline)}
    free = {name: set(kind.per_weight) for name, kind in passes.items()}
    assert free == {
        "prune": {"density", "scope", "threshold"},
        "cluster": {"mode", "bits", "init", "scales", "step", "points", "rate", "price"},
        "finetune": set(), "shrink": set(), "slim": set(), "encode": {"coder", "position_bits"},
    }  # fmt: skip
    net, _ = GRAPHS["matmul"]()
    for kind in passes.values():
        for option in set(kind.option_types()) - set().union(*free.values()):
            with pytest.raises(InvalidArgumentError, match=f"their own '{option}', which holds for all of them"):
                compile_model(net, pipeline=pipeline, set=f"*:{option}=1")


@pytest.mark.parametrize("name", ["a[0]", "*", "[!a]"])
def test_a_name_full_of_wildcards_matches_itself(name: str) -> None:
    net, _ = GRAPHS["matmul"]()
    net.graph.initializer[0].name = net.graph.node[0].input[1] = name
    (row,) = compile_model(net, skip=name).report.tensors
    assert row.reason == f"skipped by '{name}'"


def test_skip_and_minimum_size_give_reasons() -> None:
    net, _ = GRAPHS["names_of_ours"]()
    rows = {t.name: t for t in compile_model(net, skip=["w"], min_size=100).report.tensors}
    assert rows["w"].reason == "skipped by 'w'"
    assert rows["w.dcc"].reason is None
    assert rows["w.dcc.dcc"].reason == "48 elements, fewer than the minimum of 100"
    whole = {t.name: t.reason for t in compile_model(net, preset="lossless", min_size=0).report.tensors}
    assert whole["w.dcc.dcc"] is None or "not make it smaller" in whole["w.dcc.dcc"]


def test_a_recipe_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'preset = "deep-compression"\nemit = "graph"\nmin_size = 10\nseed = 5\nskip = ["w.dcc"]\n'
        '[layers.w]\ndensity = 0.5\ninit = "density"\n'
    )
    recipe = make_recipe(recipe=path)
    assert (recipe.emit, recipe.min_size, recipe.seed, recipe.skip) == ("graph", 10, 5, ("w.dcc",))
    assert recipe.overrides == (Override("w", {"density": "0.5", "init": "density"}),)
    report = compile_model(GRAPHS["names_of_ours"]()[0], recipe=path).report
    rows = {t.name: t for t in report.tensors}
    assert report.form == "graph"
    assert rows["w"].kept == pytest.approx(0.5, abs=0.05)
    assert rows["w.dcc"].reason == "skipped by 'w.dcc'"
    overruled = make_recipe(recipe=path, emit="session", min_size=0, seed=0)
    assert (overruled.emit, overruled.min_size, overruled.seed) == ("session", 0, 0)


# Order -----------------------------------------------------------------------------------------------------------


STEPS = {"prune": 0, "cluster": 1, "encode": 2, "encode(huffman)": 2, "encode(lossless)": 2}


@pytest.mark.parametrize("texts", [t for n in (1, 2, 3) for t in itertools.product(STEPS, repeat=n)], ids=",".join)
def test_order_matrix(texts: tuple[str, ...]) -> None:
    """Stages must ascend (only pruning may repeat) and end in encode, and huffman needs clusters."""
    stages = [STEPS[t] for t in texts]
    ascending = all(a < b or a == b == 0 for a, b in itertools.pairwise(stages))
    valid = ascending and stages[-1] == 2 and (texts[-1] != "encode(huffman)" or 1 in stages)
    if valid:
        assert len(PassManager(parse_pipeline(",".join(texts))).passes) == len(texts)
    else:
        with pytest.raises(InvalidArgumentError):
            PassManager(parse_pipeline(",".join(texts)))


# Third-party passes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies every weight: a stand-in for a pass of somebody else's."""

    name: ClassVar[str] = "scale"
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    positional: ClassVar[str | None] = "factor"
    per_weight: ClassVar[frozenset[str]] = frozenset({"factor", "kind"})

    factor: float = 2.0
    both: bool = False
    kind: Literal["a", "b"] | None = None

    def run(self, program: ir.Program, context: Context) -> PassReport:
        for record in program.weights():
            options = self.for_record(record, context)
            ir.add_change(record, record.values * record.values.dtype.type(options.factor))
        return PassReport(self.name, len(program.weights()))


class EntryPoint:
    """What importlib.metadata yields for an installed pass."""

    name = "scale"

    def load(self) -> type[Pass]:
        return Scale


@pytest.fixture
def with_scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    real = metadata.entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda group: [*real(group=group), EntryPoint()])
    available_passes.cache_clear()
    yield
    monkeypatch.undo()
    available_passes.cache_clear()


@pytest.mark.usefixtures("with_scale")
def test_a_pass_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = GRAPHS["names_of_ours"]()
    result = compile_model(
        net, tmp_path / "out.onnx", pipeline="scale(4,both=true),encode(lossless)", set="w.dcc:factor=0.5,kind=b"
    )
    assert result.report.pipeline == "scale(factor=4.0,both=true),encode(coder=lossless)"
    before = {t.name: np.frombuffer(t.raw_data, np.float32) for t in net.graph.initializer}
    dense = unpack_model(tmp_path / "out.onnx")
    after = {t.name: np.frombuffer(t.raw_data, np.float32) for t in dense.graph.initializer}
    assert np.array_equal(after["w"], 4 * before["w"])
    assert np.array_equal(after["w.dcc"], before["w.dcc"] / 2)
    assert parse_pipeline(result.report.pipeline)[0] == Scale(factor=4.0, both=True)
    for bad in ("scale(both=maybe),encode", "scale(kind=c),encode", "scale(x=1),encode", "encode,scale"):
        with pytest.raises(InvalidArgumentError):
            compile_model(net, pipeline=bad)
    assert main(["compile", "missing.onnx", "-o", "out.onnx", "--pipeline", "scale(2)"]) == 2
    assert "does not encode anything" in capsys.readouterr().err


# Invariants ----------------------------------------------------------------------------------------------------------


def change_outputs(program: ir.Program, record: ir.WeightRecord) -> None:
    program.proto.graph.output[0].name = "z"


def add_input(program: ir.Program, record: ir.WeightRecord) -> None:
    program.proto.graph.input.add(name="more")


def mask_without_zeros(program: ir.Program, record: ir.WeightRecord) -> None:
    record.mask = np.zeros(record.shape, bool)


def mask_with_negative_zero(program: ir.Program, record: ir.WeightRecord) -> None:
    values = record.values.copy()
    values[0, 0] = -0.0
    record.values = values
    record.mask = values != 0


def values_off_the_codebook(program: ir.Program, record: ir.WeightRecord) -> None:
    Cluster(bits=3).run(program, Context(jobs=1))
    record.values = np.nextafter(record.values, np.float32(9))


def another_weights_frame(program: ir.Program, record: ir.WeightRecord) -> None:
    Encode().run(program, Context(jobs=1))
    other = ir.WeightRecord("other", -record.values, record.elem_type)
    record.frame = Encode(coder="lossless")._frame(other)


def a_damaged_frame(program: ir.Program, record: ir.WeightRecord) -> None:
    Encode(coder="lossless").run(program, Context(jobs=1))
    assert record.frame is not None
    record.frame = record.frame[:-1]


def a_changed_shape(program: ir.Program, record: ir.WeightRecord) -> None:
    record.values = record.values.reshape(-1)


def a_changed_type(program: ir.Program, record: ir.WeightRecord) -> None:
    record.values = record.values.astype(np.float64)


def a_weight_left_alone_changes(program: ir.Program, record: ir.WeightRecord) -> None:
    program.records[-1].values = program.records[-1].values * 2


def a_crash(program: ir.Program, record: ir.WeightRecord) -> None:
    raise ZeroDivisionError("one by zero")


Break = Callable[[ir.Program, ir.WeightRecord], None]
BREAKS: list[tuple[Break, str]] = [
    (change_outputs, "inputs or outputs"),
    (add_input, "inputs or outputs"),
    (mask_without_zeros, "weight 'w': a pruned element is not +0.0"),
    (mask_with_negative_zero, "weight 'w': a pruned element is not +0.0"),
    (values_off_the_codebook, "weight 'w': its values are not those of its codebook"),
    (another_weights_frame, "weight 'w': its frame does not decode to its values"),
    (a_damaged_frame, "weight 'w'"),
    (a_changed_shape, "shape or type of a weight"),
    (a_changed_type, "shape or type of a weight"),
    (a_weight_left_alone_changes, "weight 'b': it changed although it is left alone"),
    (a_crash, "ZeroDivisionError: one by zero"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_pass_that_breaks_an_invariant(
    damage: Break, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manager stops at the pass, the message names it and the weight, and nothing is written."""

    @dataclass(frozen=True)
    class Vandal(Pass):
        name: ClassVar[str] = "vandal"

        def run(self, program: ir.Program, context: Context) -> PassReport:
            damage(program, program.records[0])
            return PassReport(self.name, 1)

    net, _ = GRAPHS["gemm"]()  # its bias is too small to be worth packing
    known = available_passes() | {"vandal": Vandal}
    monkeypatch.setattr("dc_compiler.recipe.available_passes", lambda: known)
    with pytest.raises(PassError, match="vandal") as caught:
        compile_model(net, tmp_path / "out.onnx", pipeline="prune(1),vandal,encode")
    assert message in str(caught.value)
    assert isinstance(caught.value, DccError)
    assert list(tmp_path.iterdir()) == []
