"""Section 8.3: coder `trees`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dc_compiler.codec.reference.arithmetic import BitCoder, Mixer, RangeDecoder, Slot, limited
from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.readers import ByteReader, require, unzigzag
from dc_compiler.codec.reference.spec import Array, Header
from dc_compiler.codec.reference.text import TextModel

_M64 = (1 << 64) - 1
_RATE = 200
_TOO_MANY = "an ensemble has more parts than bytes"
_NO_VALUES = "a column has no values"

# Kinds of columns: the field's tag, bytes of an element (0: a varint), bits of a float, whether they lie in a tensor
_STRINGS = 3
_KINDS = {
    1: (0x40, 0, 0, False), 2: (0x3D, 4, 32, False), 3: (0x4A, 0, 0, False), 4: (0x4A, 1, 0, True),
    5: (0x4A, 2, 16, True), 6: (0x4A, 4, 32, True), 7: (0x4A, 8, 64, True), 8: (0x22, 4, 32, True),
    9: (0x2A, 0, 0, True), 10: (0x52, 8, 64, True),
}  # fmt: skip
_ROLES = {
    "tree": ["nodes_treeids"],
    "id": ["nodes_nodeids"],
    "feature": ["nodes_featureids"],
    "mode": ["nodes_modes"],
    "threshold": ["nodes_values", "nodes_values_as_tensor", "nodes_splits"],
    "true": ["nodes_truenodeids"],
    "false": ["nodes_falsenodeids"],
    "hitrate": ["nodes_hitrates", "nodes_hitrates_as_tensor"],
    "tracks": ["nodes_missing_value_tracks_true"],
    "leaf tree": ["class_treeids", "target_treeids"],
    "leaf id": ["class_nodeids", "target_nodeids"],
    "target": ["class_ids", "target_ids", "leaf_targetids"],
    "weight": [f"{p}_weights{s}" for p in ("class", "target") for s in ("", "_as_tensor")] + ["leaf_weights"],
    "root": ["tree_roots"],
    "true leaf": ["nodes_trueleafs"],
    "false leaf": ["nodes_falseleafs"],
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_BRANCH_SIDES = ("tracks", "hitrate")
_LEAF_SIDES = ("feature", "threshold", "true", "false", "tracks", "hitrate")
# What a bit is of
_LEAF_KIND, _FEATURE_KIND, _MODE_KIND, _THRESHOLD_KIND = 1, 2, 3, 4
_PATTERN_KIND, _COMMON_KIND, _WEIGHT_KIND, _SIDE_KIND = 5, 6, 7, 8


@dataclass(frozen=True)
class _Attribute:
    kind: int
    role: str
    parts: tuple[bytes, ...]  # before, (of a tensor: before and after within it,) behind


@dataclass
class _Place:
    """What the place of a node tells."""

    parent: int
    depth: int = 0
    side: int = 0
    volume: int = 0
    width: int = 0
    sibling: int = 0
    sibling_leaf: int | None = None


@dataclass
class _Open:
    """A branch whose children are decoded."""

    feature: int
    begin: int
    end: int
    threshold: int
    mode: int
    place: _Place
    has_first: bool = False
    first_leaf: int | None = None  # where the first child is one


@dataclass
class _Numbers:
    """Places, or the other numbers."""

    traversal: int
    is_corrected: bool
    values: list[int] = field(default_factory=list)


def _read(header: Header, reader: ByteReader) -> Array:
    return np.frombuffer(b"".join(read_chunks(header, reader, _chunk)), np.uint8)


def _chunk(chunk: ByteReader, n: int) -> bytes:
    size = chunk.varint()
    require(size <= n, _TOO_MANY)
    text = RangeDecoder(chunk.take(chunk.varint()))
    listing = TextModel.after_primer().decode(text, size)
    if size:
        text.finish()
    coder = RangeDecoder(chunk.rest())
    data = trees_bytes(listing, coder, n)
    coder.finish()
    require(len(data) == n, "the attributes are not as long as the tensor")
    return data


def trees_bytes(listing: bytes, coder: BitCoder, n: int, kind: type[TreesModel] | None = None) -> bytes:
    """The attributes of the list with the forest of a code, about ``n`` bytes at most; ``kind`` decodes it."""
    attributes = _attributes(listing)
    columns = [a for a in attributes if a.kind]
    names = any(a.kind == _STRINGS for a in columns)
    model = (kind or TreesModel)(coder, {a.role: _KINDS[a.kind][2] for a in columns}, n, names=names)
    model.decode()
    return b"".join(_written(attributes, model.columns(), n))


def _attributes(listing: bytes) -> list[_Attribute]:
    reader = ByteReader(listing)
    found: list[_Attribute] = []
    while reader.at < len(listing):
        kind = reader.u8()
        require(kind == 0 or kind in _KINDS, "an attribute of an unknown kind")
        parts = 1 if kind == 0 else 4 if _KINDS[kind][3] else 2
        texts = tuple(reader.take(reader.varint()) for _ in range(parts))
        role = "" if kind == 0 else _ROLE_OF.get(_name(texts[0]), "")
        is_column = bool(role) and all(a.role != role for a in found) and (kind != _STRINGS or role == "mode")
        require(kind == 0 or is_column, "an attribute that is no column of an ensemble")
        found.append(_Attribute(kind, role, texts))
    return found


def _name(before: bytes) -> str:
    if len(before) < 2 or before[0] != 0x0A or before[1] >= 128 or before[1] > len(before) - 2:
        return ""
    return before[2 : 2 + before[1]].decode("latin-1")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _counted(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _written(attributes: Sequence[_Attribute], columns: dict[str, list[int | bytes]], n: int) -> Iterator[bytes]:
    """The attributes, as fields of a NodeProto."""
    for attribute in attributes:
        content = attribute.parts[0]
        if attribute.kind:
            tag, width, _, in_tensor = _KINDS[attribute.kind]
            elements = bytearray()
            for value in columns.get(attribute.role, []):
                require(attribute.kind != _STRINGS or isinstance(value, bytes), "a mode has no name")
                elements += b"" if in_tensor else bytes([tag])
                elements += _counted(value) if isinstance(value, bytes) else _element(value, width)
                require(len(elements) <= n, "the attributes are not as long as the tensor")
            if in_tensor:
                tensor = attribute.parts[1] + bytes([tag]) + _counted(bytes(elements)) + attribute.parts[2]
                elements = bytearray(b"\x2a" + _counted(tensor))
            content += bytes(elements) + attribute.parts[-1]
        yield b"\x2a" + _counted(content)


def _element(value: int, width: int) -> bytes:
    return (value & (1 << 8 * width) - 1).to_bytes(width, "little") if width else _varint(value)


def _hash(*parts: int) -> int:
    x = 0
    for part in parts:
        x = (x + part + 1) * 0x9E3779B97F4A7C15 & _M64
        x ^= x >> 32
    return x | 1


def _log16(x: int) -> int:
    whole = x.bit_length() - 1
    return 16 * whole + ((x >> whole - 4 if whole >= 4 else x << 4 - whole) & 15)


def _key(value: int, bits: int) -> int:
    sign = 1 << bits - 1
    magnitude = value & sign - 1
    return sign - 1 - magnitude if value & sign else sign + magnitude


def _value(key: int, bits: int, shift: int = 0) -> int:
    if bits == 0:
        return key ^ 1 << 63
    sign = 1 << bits - 1
    half = sign >> shift
    if key >= half:
        return key - half << shift & sign - 1
    return sign | half - 1 - key << shift & sign - 1


def _decimal(m: int, digits: int, bits: int) -> int:
    value = np.float64(m - (1 << 64) if m >> 63 else m) / np.float64(10.0**digits)
    return int(value.view(np.uint64)) if bits == 64 else int(np.float32(value).view(np.uint32))


class TreesModel:
    """A forest that is decoded; `floats` are the columns that there are, with the bits of a float or 0."""

    def __init__(self, coder: BitCoder, floats: dict[str, int], n: int, *, names: bool = True) -> None:
        self.coder, self.floats, self.n, self.names = coder, floats, n, names
        self.is_apart = "root" in floats
        self.slots: dict[int, Slot] = {}
        self.mixers: dict[tuple[int, int, int], Mixer] = {}
        self.entries = 0
        self.roots: list[int] = []
        self.tree_ids: list[int] = []
        self.is_leaf: list[bool] = []
        self.branches: list[tuple[int, int, int]] = []  # mode, feature, threshold
        self.leaves: list[int] = []  # patterns
        self.first_weight: list[int] = []
        self.weights: list[int] = []
        self.side_values: dict[tuple[bool, str], list[int]] = {}
        self.last_side: dict[tuple[bool, str], int] = {}
        self.last_pattern = 0

    # Bits

    def _slot(self, key: int) -> Slot:
        return self.slots.setdefault(key, Slot())

    def _bit(self, key: int) -> int:
        slot = self._slot(key)
        bit = self.coder.bit(limited(slot.p, 32, (1 << 16) - 32))
        slot.learn(bit)
        return bit

    def _plain_bit(self) -> int:
        return self.coder.bit(1 << 15)

    def _number(self, n: int, c: int = 0) -> int:
        length = 0
        while length < 63 and self._bit(_hash(0, n, c, length)):
            length += 1
        value = 1
        for i in reversed(range(length)):
            bit = self._bit(_hash(0, n, 64 + length, value)) if length - i <= 3 else self._plain_bit()
            value = 2 * value + bit
        return value - 1

    def _signed(self, n: int, c: int = 0) -> int:
        return unzigzag(self._number(n, c))

    def _count(self, n: int) -> int:
        count = self._number(n)
        require(count <= self.n, _TOO_MANY)
        return count

    def _mixed(self, kind: int, selector: int, keys: Sequence[int], share: tuple[int, int] | None = None) -> int:
        slots = [self._slot(key) for key in keys]
        if share is not None:
            slots.insert(0, Slot(limited((share[0] << 16) // share[1], 16, (1 << 16) - 16)))
        new = Mixer((1 << 16) * 12 // (10 * len(slots)), len(slots))
        return self.mixers.setdefault((len(slots), kind, selector), new).bit(self.coder, slots, _RATE)

    def _index(self, kind: int, n: int, contexts: Sequence[int]) -> int:
        node, low = 1, 0
        half = (1 << (n - 1).bit_length()) // 2
        while half:
            bit = 0
            if low + half < n:
                bit = self._mixed(kind, 0, [_hash(kind, i, node, c) for i, c in enumerate(contexts)])
            low += bit * half
            node = 2 * node + bit
            half //= 2
        return low

    # Tables

    def decode(self) -> None:
        """Everything up to the end of the code."""
        trees = self._count(0)
        self._tables()
        for _ in range(trees):
            self.roots.append(len(self.is_leaf))
            self._tree()
            if not self.is_apart:
                expected = self.tree_ids[-1] + 1 if self.tree_ids else 0
                self.tree_ids.append(expected + self._signed(40) & _M64)
        self._numbers(self.places, 4, self._expected(self.places, self.is_apart, False, False))
        self._numbers(self.others, 5, self._expected(self.others, self.is_apart, True, not self.is_apart))

    def _tables(self) -> None:
        count = self._count(1)
        self.mode_numbers: list[int] = []
        self.mode_names: list[bytes] = []
        for _ in range(count):
            if self.is_apart:
                self.mode_numbers.append(self._number(3))
            else:
                length = self._count(2)
                self.entries += length
                require(self.entries <= self.n, _TOO_MANY)
                self.mode_names.append(bytes(self._byte() for _ in range(length)))
        self.modes = self.mode_numbers or self.mode_names
        self.narrows = self._plain_bit()
        numberings = [self._number(6) % 8 for _ in range(2)]
        self.places, self.others = (_Numbers(v % 4, v >= 4) for v in numberings)
        self.features = self._table(0, 0)
        bits = self.floats.get("threshold", 0)
        self.thresholds = [self._table(bits, 1) for _ in self.features]
        self.sides = {
            (is_leaf, role): self._table(self.floats[role], 2)
            for is_leaf, roles in ((False, _BRANCH_SIDES), (True, () if self.is_apart else _LEAF_SIDES))
            for role in roles
            if role in self.floats
        }
        self.patterns = [self._pattern() for _ in range(self._count(36))]
        self.weight_table = self._table(self.floats.get("weight", 0), 3)
        self.common = self._number(39) % len(self.weight_table) if self.weight_table else 0
        self.left = [(0, len(t)) for t in self.thresholds]

    def _byte(self) -> int:
        value = 0
        for _ in range(8):
            value = 2 * value + self._plain_bit()
        return value

    def _table(self, bits: int, n: int) -> list[int]:
        size = self._count(8 + n)
        self.entries += size
        require(self.entries <= self.n, _TOO_MANY)
        if size == 0:
            return []
        digits = self._number(16 + n) % 24 if bits >= 32 else 0
        if digits:
            return list(self._decimals(bits, size, digits - 1, n))
        shift = self._number(20 + n) % bits if bits else 0
        key = self._number(24 + n, 64) if bits else self._signed(24 + n, 64) & _M64 ^ 1 << 63
        values = [_value(key, bits, shift)]
        gap = 0
        for _ in range(1, size):
            gap = self._number(24 + n, gap.bit_length())
            key = key + gap + 1 & _M64
            values.append(_value(key, bits, shift))
        return values

    def _decimals(self, bits: int, size: int, digits: int, n: int) -> Iterator[int]:
        m = gap = 0
        for i in range(size):
            if i == 0:
                m = self._signed(28 + n, 64) & _M64
            else:
                gap = self._number(28 + n, gap.bit_length())
                m = m + gap + 1 & _M64
            near = _key(_decimal(m, digits, bits), bits)
            yield _value(near + self._signed(32 + n) & _M64, bits)

    def _pattern(self) -> list[int]:
        size = 1 if self.is_apart else self._count(37)
        self.entries += size
        require(self.entries <= self.n, _TOO_MANY)
        targets: list[int] = []
        for _ in range(size):
            before = targets[-1] if targets else -1
            targets.append(before + 1 + self._signed(38) & _M64)
        return targets

    # Trees

    def _tree(self) -> None:
        branches: list[_Open] = []
        place = _Place(len(self.features))
        while True:
            require(len(self.is_leaf) < self.n, _TOO_MANY)
            is_leaf = self._leaf_flag(place)
            self.is_leaf.append(is_leaf)
            if not is_leaf:
                branches.append(self._branch(place))
                place = self._enter(branches[-1])
                continue
            require(bool(branches) or not self.is_apart, "a root is a leaf, where leaves have arrays of their own")
            leaf: int | None = len(self.leaves)
            self._leaf(place)
            while branches and branches[-1].has_first:
                done = branches.pop()
                self.left[done.feature] = done.begin, done.end
                leaf = None
            if not branches:
                return
            branches[-1].has_first, branches[-1].first_leaf = True, leaf
            place = self._enter(branches[-1])

    def _below(self, mode: int) -> bool | None:
        """Whether the true child has the smaller values; None where the mode does not tell."""
        if self.is_apart:
            number = self.mode_numbers[mode]
            return number < 2 if number < 4 else None
        directions = {b"BRANCH_LEQ": True, b"BRANCH_LT": True, b"BRANCH_GTE": False, b"BRANCH_GT": False}
        return directions.get(self.mode_names[mode])

    def _enter(self, branch: _Open) -> _Place:
        begin, end = branch.begin, branch.end
        below = self._below(branch.mode)
        if self.narrows and below is not None:
            if below != branch.has_first:
                end = branch.threshold
            else:
                begin = branch.threshold + 1
            self.left[branch.feature] = begin, end
        return _Place(
            branch.feature,
            branch.place.depth + 1,
            2 if branch.has_first else 1,
            branch.place.volume + _log16(branch.end - branch.begin + 1) - _log16(end - begin + 1),
            (end - begin).bit_length(),
            0 if not branch.has_first else 2 if branch.first_leaf is None else 1,
            branch.first_leaf if branch.has_first else None,
        )

    def _leaf_flag(self, place: _Place) -> bool:
        if all(begin == end for begin, end in self.left):
            return True
        volume, near = min(place.volume // 4, 255), 64 * place.sibling + place.width
        kind = _LEAF_KIND
        keys = [
            _hash(kind, 0, min(place.depth, 63), place.sibling),
            _hash(kind, 1, near, place.side),
            _hash(kind, 2, volume, place.sibling),
            _hash(kind, 3, place.parent, near, volume // 8),
        ]
        return bool(self._mixed(kind, place.sibling, keys))

    def _branch(self, place: _Place) -> _Open:
        feature = self._feature(place)
        require(len(self.modes) > 0, "a branch has no mode")
        mode = self._index(_MODE_KIND, len(self.modes), [0, 1 + feature])
        begin, end = self.left[feature]
        threshold = self._threshold(feature, begin, end, place)
        self.branches.append((mode, feature, threshold))
        for role in _BRANCH_SIDES:
            self._side(False, role, feature)
        return _Open(feature, begin, end, threshold, mode, place)

    def _feature(self, place: _Place) -> int:
        node, low = 1, 0
        half = 1 << (len(self.features) - 1).bit_length()
        while half > 1:
            half //= 2
            counts = [sum(b < e for b, e in self.left[at : at + half]) for at in (low, low + half)]
            bit = int(counts[0] == 0)
            if all(counts):
                keys = [
                    _hash(_FEATURE_KIND, 0, node),
                    _hash(_FEATURE_KIND, 1, node, place.parent, place.side),
                    _hash(_FEATURE_KIND, 2, node, min(place.depth, 15)),
                ]
                bit = self._mixed(_FEATURE_KIND, 0, keys, (counts[1], sum(counts)))
            low += bit * half
            node = 2 * node + bit
        return low

    def _threshold(self, feature: int, begin: int, end: int, place: _Place) -> int:
        node, low, step = 1, 0, 0
        half = (1 << (len(self.thresholds[feature]) - 1).bit_length()) // 2
        while half:
            middle = low + half
            first, last = max(begin, low), min(end, middle + half)
            bit = int(middle <= first)
            if first < middle < last:
                keys = [
                    _hash(_THRESHOLD_KIND, 0, node, feature),
                    _hash(_THRESHOLD_KIND, 1, min(step, 3), (last - first).bit_length()),
                    _hash(_THRESHOLD_KIND, 2, min(step, 3), (last - first).bit_length(), min(place.depth // 4, 7)),
                ]
                bit = self._mixed(_THRESHOLD_KIND, min(step, 3), keys, (last - middle, last - first))
                step += 1
            low += bit * half
            node = 2 * node + bit
            half //= 2
        return low

    def _side(self, is_leaf: bool, role: str, context: int) -> None:
        key = (is_leaf, role)
        table = self.sides.get(key)
        if table is None:
            return
        require(len(table) > 0, _NO_VALUES)
        number = len(_BRANCH_SIDES) + _LEAF_SIDES.index(role) if is_leaf else _BRANCH_SIDES.index(role)
        value = self._index(_SIDE_KIND + number, len(table), [self.last_side.get(key, 0), context])
        self.last_side[key] = 1 + value
        self.side_values.setdefault(key, []).append(table[value])

    def _leaf(self, place: _Place) -> None:
        for role in _LEAF_SIDES:
            self._side(True, role, 0)
        require(len(self.patterns) > 0, _NO_VALUES)
        pattern = self._index(_PATTERN_KIND, len(self.patterns), [self.last_pattern, int(place.side == 0)])
        self.last_pattern = 1 + pattern
        self.leaves.append(pattern)
        first = len(self.weights)
        self.first_weight.append(first)
        size = len(self.patterns[pattern])
        require(size <= self.n - first, _TOO_MANY)
        require(size == 0 or len(self.weight_table) > 0, _NO_VALUES)
        for i in range(size):
            self.weights.append(self._weight(first, i, pattern, place))

    def _weight(self, first: int, i: int, pattern: int, place: _Place) -> int:
        none = len(self.weight_table)
        own = self.weights[first:]
        one, two = own[i - 1] if i >= 1 else none, own[i - 2] if i >= 2 else none
        beside = none
        if place.sibling_leaf is not None and self.first_weight[place.sibling_leaf] + i < first:
            beside = self.weights[self.first_weight[place.sibling_leaf] + i]
        others = min(sum(w != self.common for w in own), 3)
        contexts = [
            _hash(i, pattern, others),
            _hash(i, pattern, one, two),
            _hash(i, pattern, beside, others),
            _hash(i, place.parent, place.side, others),
        ]
        if none == 1:
            return self.common
        keys = [_hash(_COMMON_KIND, j, c) for j, c in enumerate(contexts)]
        if self._mixed(_COMMON_KIND, min(others, 1), keys):
            return self.common
        return self._index(_WEIGHT_KIND, none, contexts)

    # Numbers of nodes

    def _second(self) -> dict[int, int]:
        """The false child of each branch."""
        second, waiting = {}, []
        for node, is_leaf in enumerate(self.is_leaf):
            if not is_leaf:
                waiting.append(node)
            elif waiting:
                second[waiting.pop()] = node + 1
        return second

    def _ends(self) -> list[tuple[int, int]]:
        return list(pairwise([*self.roots, len(self.is_leaf)]))

    def _counted(self, is_apart: bool, leaves: bool) -> list[int]:
        return [node for node, is_leaf in enumerate(self.is_leaf) if not is_apart or is_leaf == leaves]

    def _expected(self, numbers: _Numbers, is_apart: bool, leaves: bool, is_of_tree: bool) -> list[int]:
        """The numbers of the nodes that are counted, in their order, by the traversal."""
        if is_of_tree and numbers.traversal == 3:
            return [place - first & _M64 for first, end in self._ends() for place in self.places.values[first:end]]
        second, counted = self._second(), self._counted(is_apart, leaves)
        wanted, rank = set(counted), {}
        ahead = 0
        for first, _ in self._ends():
            ahead = 0 if is_of_tree else ahead
            for node in self._traversed(numbers.traversal, first, second):
                if node in wanted:
                    rank[node] = ahead
                    ahead += 1
        return [rank[node] for node in counted]

    def _traversed(self, traversal: int, root: int, second: dict[int, int]) -> Iterator[int]:
        waiting = deque([root])
        take: Callable[[], int] = waiting.popleft if traversal == 2 else waiting.pop
        while waiting:
            node = take()
            yield node
            if not self.is_leaf[node]:
                both = [node + 1, second[node]]
                waiting.extend(both if traversal in (1, 2) else both[::-1])

    def _numbers(self, numbers: _Numbers, n: int, expected: list[int]) -> None:
        numbers.values = list(expected)
        if not numbers.is_corrected:
            return
        second = self._second()
        sibling: dict[int, int] = {}  # by false child: the number of the true one
        off = 0
        for i, node in enumerate(self._counted(self.is_apart, n == 5)):
            if node in sibling:
                number = sibling[node] + 1 + self._signed(n, 1) & _M64
            else:
                number = expected[i] + off + self._signed(n, 0) & _M64
                off = number - expected[i]
            numbers.values[i] = number
            if node and not self.is_leaf[node - 1] and number != _M64:
                sibling[second[node - 1]] = number

    # Columns

    def columns(self) -> dict[str, list[int | bytes]]:
        """The elements of each column, whether it exists or not."""
        return self._columns_apart() if self.is_apart else self._columns_of_nodes()

    def _columns_of_nodes(self) -> dict[str, list[int | bytes]]:
        nodes, second = len(self.is_leaf), self._second()
        places, ids = self.places.values, self.others.values
        _require_places(places)
        require(len(set(self.tree_ids)) == len(self.tree_ids), "two of an ensemble's parts have one number")
        trees: list[int] = []
        for tree, (first, end) in enumerate(self._ends()):
            require(len(set(ids[first:end])) == end - first, "two of an ensemble's parts have one number")
            trees += [tree] * (end - first)
        columns: dict[str, list[int | bytes]] = {role: [0] * nodes for role in list(_ROLES)[:9]}
        columns |= {role: [] for role in ("leaf tree", "leaf id", "target", "weight")}
        node_at: list[tuple[int, int | None]] = [(0, None)] * nodes
        branch = leaf = 0
        for node, is_leaf in enumerate(self.is_leaf):
            at = places[node]
            columns["tree"][at], columns["id"][at] = self.tree_ids[trees[node]], ids[node]
            self._set_sides(columns, at, is_leaf, leaf if is_leaf else branch)
            if is_leaf:
                columns["mode"][at] = b"LEAF" if self.names else len(self.mode_names)
                node_at[at] = (node, leaf)
                leaf += 1
                continue
            mode, feature, threshold = self.branches[branch]
            branch += 1
            columns["mode"][at] = self.mode_names[mode] if self.names else mode
            columns["feature"][at] = self.features[feature]
            columns["threshold"][at] = self.thresholds[feature][threshold]
            columns["true"][at], columns["false"][at] = ids[node + 1], ids[second[node]]
        for node, own in node_at:
            if own is None:
                continue
            for i, target in enumerate(self.patterns[self.leaves[own]]):
                columns["leaf tree"].append(self.tree_ids[trees[node]])
                columns["leaf id"].append(ids[node])
                columns["target"].append(target)
                columns["weight"].append(self.weight_table[self.weights[self.first_weight[own] + i]])
        return columns

    def _set_sides(self, columns: dict[str, list[int | bytes]], at: int, is_leaf: bool, index: int) -> None:
        for role in _LEAF_SIDES if is_leaf else _BRANCH_SIDES:
            values = self.side_values.get((is_leaf, role))
            if values is not None:
                columns[role][at] = values[index]

    def _columns_apart(self) -> dict[str, list[int | bytes]]:
        second, branches, leaves = self._second(), len(self.branches), len(self.leaves)
        for numbers in (self.places, self.others):
            _require_places(numbers.values)
        place = dict(zip(self._counted(True, False), self.places.values, strict=True))
        place |= dict(zip(self._counted(True, True), self.others.values, strict=True))
        roles = ("feature", "mode", "threshold", "true", "false", "true leaf", "false leaf", "hitrate", "tracks")
        columns: dict[str, list[int | bytes]] = {role: [0] * branches for role in roles}
        columns |= {"target": [0] * leaves, "weight": [0] * leaves, "root": [place[root] for root in self.roots]}
        branch = leaf = 0
        for node, is_leaf in enumerate(self.is_leaf):
            at = place[node]
            if is_leaf:
                columns["target"][at] = self.patterns[self.leaves[leaf]][0]
                columns["weight"][at] = self.weight_table[self.weights[leaf]]
                leaf += 1
                continue
            self._set_sides(columns, at, False, branch)
            mode, feature, threshold = self.branches[branch]
            branch += 1
            columns["mode"][at] = self.mode_numbers[mode]
            columns["feature"][at] = self.features[feature]
            columns["threshold"][at] = self.thresholds[feature][threshold]
            for role, child in (("true", node + 1), ("false", second[node])):
                columns[role][at], columns[f"{role} leaf"][at] = place[child], int(self.is_leaf[child])
        return columns


def _require_places(places: Sequence[int]) -> None:
    require(sorted(places) == list(range(len(places))), "two nodes of an ensemble have one place")


CODER = Coder(9, Stores.BYTES, Layout.ONE_CHUNK, _read)
