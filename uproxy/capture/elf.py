"""Reads the programs and maps out of a compiled BPF object: 64-bit little-endian ELF.

Pure.  It knows what clang writes for `bpf_redirect/`: a section for each program, a section
`maps` with `struct map_definition`s, and relocations that name these maps.  Anything else is an
error, never skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from uproxy.errors import UproxyError

_MAGIC = b"\x7fELF\x02\x01\x01"
"""64 bits, little-endian, version 1."""
_RELOCATABLE, _BPF = 1, 247
"""ET_REL; EM_BPF."""
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_DEFINITION = struct.Struct("<5I")
_INSTRUCTION = 8
"""Bytes."""
_LOAD_MAP = 0x18
"""BPF_LD | BPF_DW | BPF_IMM: the instruction of two slots that loads 64 bits."""
_SYMBOLS, _RELOCATIONS = 2, 9
"""SHT_SYMTAB, SHT_REL."""
_OBJECT, _FUNCTION = 1, 2
"""STT_OBJECT, STT_FUNC."""
_LOADS_ADDRESS = 1
"""R_BPF_64_64."""
_MAPS, _LICENSE, _COMPILER = "maps", "license", "compiler"


class ObjectError(UproxyError):
    """The file is no BPF object that this loader understands."""


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """What BPF_MAP_CREATE needs to know; the sizes are bytes."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Program:
    """One program, before it knows its maps."""

    name: str
    section: str
    """Says what kind of program it is: `cgroup/connect4`."""
    code: bytes
    maps: tuple[tuple[int, str], ...]
    """(offset in `code`, name) of each instruction that loads a map."""


@dataclass(frozen=True, slots=True)
class BpfObject:
    """Everything in the file."""

    programs: Mapping[str, Program]
    maps: Mapping[str, MapDefinition]
    license: str
    compiler: str


@dataclass(frozen=True, slots=True)
class _Section:
    name: int
    type: int
    offset: int
    size: int
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    type: int
    section: int
    value: int
    size: int


def read_object(data: bytes) -> BpfObject:
    """Return the programs and maps of an object file's bytes.

    Raises:
        ObjectError: it is damaged, or something else than clang makes of `bpf_redirect/`.
    """
    try:
        return _File(data).read()
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise ObjectError(f"the BPF object is damaged: {error}") from None


class _File:
    """An object file while it is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        header = _HEADER.unpack_from(data)
        if not data.startswith(_MAGIC) or header[1:3] != (_RELOCATABLE, _BPF):
            raise ObjectError("not a relocatable 64-bit little-endian BPF object")
        offset, entry, count, names = header[6], header[11], header[12], header[13]
        if entry != _SECTION.size:
            raise ObjectError(f"section headers of {entry} bytes")
        self._sections = [_section(data, offset + entry * index) for index in range(count)]
        self._names = [_text(self._body(names), each.name) for each in self._sections]
        self._symbols = list(self._read_symbols())

    def read(self) -> BpfObject:
        maps = {name: definition for name, definition in self._read_maps()}
        programs = {each.name: each for each in self._read_programs(maps)}
        return BpfObject(programs, maps, self._string(_LICENSE), self._string(_COMPILER))

    def _body(self, index: int) -> bytes:
        if not 0 <= index < len(self._sections):
            raise ObjectError(f"there is no section {index}")
        section = self._sections[index]
        end = section.offset + section.size
        if end > len(self._data):
            raise ObjectError("a section ends behind the file")
        return self._data[section.offset : end]

    def _index(self, name: str) -> int:
        if self._names.count(name) != 1:
            raise ObjectError(f"there must be one section {name!r}")
        return self._names.index(name)

    def _string(self, name: str) -> str:
        return _text(self._body(self._index(name)), 0).strip()

    def _read_symbols(self) -> Iterator[_Symbol]:
        [table] = (each for each in self._sections if each.type == _SYMBOLS)
        names = self._body(table.link)
        body = self._data[table.offset : table.offset + table.size]
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(body):
            yield _Symbol(_text(names, name), info & 15, section, value, size)

    def _read_maps(self) -> Iterator[tuple[str, MapDefinition]]:
        where = self._index(_MAPS)
        body = self._body(where)
        for symbol in self._symbols:
            if symbol.section == where and symbol.type == _OBJECT:
                if symbol.size != _DEFINITION.size:
                    raise ObjectError(f"map {symbol.name!r} has {symbol.size} bytes")
                yield symbol.name, MapDefinition(*_DEFINITION.unpack_from(body, symbol.value))

    def _read_programs(self, maps: Mapping[str, MapDefinition]) -> Iterator[Program]:
        for symbol in self._symbols:
            if symbol.type == _FUNCTION:
                code = self._body(symbol.section)
                if symbol.value != 0 or symbol.size != len(code) or len(code) % _INSTRUCTION:
                    raise ObjectError(f"program {symbol.name!r} isn't alone in its section")
                found = tuple(self._read_relocations(symbol.section, code, maps))
                yield Program(symbol.name, self._names[symbol.section], code, found)

    def _read_relocations(
        self, section: int, code: bytes, maps: Mapping[str, MapDefinition]
    ) -> Iterator[tuple[int, str]]:
        for index, each in enumerate(self._sections):
            if each.type != _RELOCATIONS or each.info != section:
                continue
            for offset, info in _RELOCATION.iter_unpack(self._body(index)):
                name = self._symbols[info >> 32].name
                if info & 0xFFFFFFFF != _LOADS_ADDRESS or name not in maps:
                    raise ObjectError(f"a relocation of {name!r}, which is no map")
                if offset % _INSTRUCTION or code[offset] != _LOAD_MAP:
                    raise ObjectError(f"a relocation at {offset}, where no map is loaded")
                yield offset, name


def _section(data: bytes, at: int) -> _Section:
    name, type_, _, _, offset, size, link, info, _, _ = _SECTION.unpack_from(data, at)
    return _Section(name, type_, offset, size, link, info)


def _text(table: bytes, at: int) -> str:
    """Return the string that begins there and ends with a zero byte."""
    return table[at : table.index(b"\0", at)].decode("ascii")
