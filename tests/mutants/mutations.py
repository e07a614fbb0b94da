"""The small faults that a module's tests must notice, made of its syntax tree.

Each is one change: a comparison moved by one, half of a condition left out, a statement
removed, a number off by one, another member of a set missing.  Left alone is what decides
nothing: annotations, docstrings, f-strings and other strings with a space in them, which
are sentences for people.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

_OTHER_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OTHER_OPERATOR: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
_OTHER_FUNCTION = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}

_TYPES_ONLY = {"annotation", "returns", "decorator_list", "bases"}
_T = TypeVar("_T")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change of a syntax tree; `apply` makes it, and nothing takes it back."""

    scope: str
    """The qualified name of the function or class it is in; empty: the module's own level."""
    in_function: bool
    """Whether it is inside a function's body, so that it isn't executed at import."""
    line: int
    before: str
    after: str
    holder: ast.AST
    field: str
    index: int | None
    """The place in the field, if that is a list."""
    new: ast.AST | None
    """What comes there; None: nothing."""
    number: int = 1
    """Counts changes that read the same in one scope."""

    @property
    def key(self) -> str:
        """What it is called in accepted.toml; it survives a move to another line."""
        again = f" ({self.number})" if self.number > 1 else ""
        return f"{self.scope or 'module'}: {self.before} => {self.after}{again}"

    def apply(self) -> None:
        """Change the tree that this was made of."""
        if self.index is None:
            setattr(self.holder, self.field, self.new)
            return
        members: list[ast.AST] = getattr(self.holder, self.field)
        if self.new is None:
            del members[self.index]
            if isinstance(self.holder, ast.Dict):
                del self.holder.values[self.index]
        else:
            members[self.index] = self.new


def mutants_of(tree: ast.Module) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    seen: Counter[str] = Counter()
    found = []
    for each in _Walk().walk(tree):
        seen[each.key] += 1
        found.append(replace(each, number=seen[each.key]))
    return found


class _Walk:
    """Goes through a tree, and knows where it is."""

    def __init__(self) -> None:
        self._scopes: list[str] = []
        self._functions = 0

    def walk(self, node: ast.AST) -> Iterator[Mutant]:
        """The mutants of everything below `node`."""
        for field, value in ast.iter_fields(node):
            if field in _TYPES_ONLY or (isinstance(node, ast.ClassDef) and field == "keywords"):
                continue
            if isinstance(value, list):
                for index, each in enumerate(value):
                    if isinstance(each, ast.AST):
                        yield from self._at(node, field, index, each)
            elif isinstance(value, ast.AST):
                yield from self._at(node, field, None, value)

    def _at(
        self, holder: ast.AST, field: str, index: int | None, node: ast.AST
    ) -> Iterator[Mutant]:
        if _says_nothing(node):
            return
        for new in _replacements(node):
            yield self._mutant(holder, field, index, node, new)
        for inner, number, gone in _removals(node):
            yield self._removal(node, inner, number, gone)
        yield from self._below(node)

    def _below(self, node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.ClassDef):
            self._scopes.append(node.name)
            yield from self.walk(node)
            self._scopes.pop()
        elif isinstance(node, _Function):
            yield from self._below_function(node)
        else:
            yield from self.walk(node)

    def _below_function(self, node: _Function) -> Iterator[Mutant]:
        if not self._functions:
            self._scopes.append(node.name)
        # default values belong to the level that the function is defined at
        yield from self.walk(node.args)
        self._functions += 1
        for index, statement in enumerate(node.body):
            yield from self._at(node, "body", index, statement)
        self._functions -= 1
        if not self._functions:
            self._scopes.pop()

    def _mutant(
        self, holder: ast.AST, field: str, index: int | None, node: ast.AST, new: ast.AST
    ) -> Mutant:
        ast.copy_location(new, node)
        ast.fix_missing_locations(new)
        return Mutant(
            ".".join(self._scopes), self._functions > 0, getattr(node, "lineno", 0),
            _text(node), _text(new), holder, field, index, new,
        )  # fmt: skip

    def _removal(self, node: ast.AST, field: str, index: int | None, gone: ast.AST) -> Mutant:
        return Mutant(
            ".".join(self._scopes), self._functions > 0,
            getattr(gone, "lineno", getattr(node, "lineno", 0)),
            _text(node), f"without {_text(gone)}", node, field, index, None,
        )  # fmt: skip


def _says_nothing(node: ast.AST) -> bool:
    """Whether `node` is text for people, or for type checkers."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.AnnAssign(value=None):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar")) | ast.Subscript()):
            return True
        case ast.Assign(value=ast.BinOp(left=ast.Name(), op=ast.BitOr(), right=ast.Name(id=name))):
            return not name.isupper()  # one of several types
        case ast.Call(func=ast.Name(id="cast")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            return True
    return False


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of `node`."""
    if isinstance(node, ast.stmt):
        yield from _other_statements(node)
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_constants(node.value))
    elif isinstance(node, ast.expr):
        yield from _other_expressions(node)
    elif isinstance(node, ast.MatchOr):
        for rest in _one_less(node.patterns):
            yield rest[0] if len(rest) == 1 else ast.MatchOr(rest)
    elif isinstance(node, ast.ExceptHandler) and not _only_raises(node.body):
        yield ast.ExceptHandler(node.type, node.name, [ast.Raise()])


def _only_raises(body: list[ast.stmt]) -> bool:
    match body:
        case [ast.Raise(exc=None)]:
            return True
    return False


def _other_statements(node: ast.stmt) -> Iterator[ast.stmt]:
    if _can_go(node):
        yield ast.Pass()
    match node:
        case ast.Return(value=ast.expr() as value) if _is_bool(value):
            yield ast.Return(ast.Constant(True))
            yield ast.Return(ast.Constant(False))
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.If():
            yield ast.If(ast.Constant(True), node.body, node.orelse)
            yield ast.If(ast.Constant(False), node.body, node.orelse)
        case ast.While():
            yield ast.While(ast.Constant(False), node.body, node.orelse)
        case ast.For():
            yield ast.For(node.target, ast.Tuple([], ast.Load()), node.body, node.orelse)


def _can_go(node: ast.stmt) -> bool:
    """Whether a statement may be left out, and what follows still has its names."""
    match node:
        case ast.Expr() | ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign():
            return True
        case ast.Delete() | ast.Return(value=None):
            return True
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            return isinstance(target, ast.Attribute | ast.Subscript)
    return False


def _is_bool(node: ast.expr) -> bool:
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp(values=values):
            return any(map(_is_bool, values))
    return False


def _other_constants(value: object) -> Iterator[bool | int | float | str | bytes]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
            if value > 0:
                yield value - 1
        case str() if " " not in value:
            yield f"{value}X"
        case bytes():
            yield value + b"X"


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Call(func=ast.Name(id=name)) if name in _OTHER_FUNCTION:
            other = _OTHER_FUNCTION[name]
            keywords = [] if other == "list" else node.keywords
            yield ast.Call(ast.Name(other, ast.Load()), node.args, keywords)
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr.isupper():
            if name[0].isupper():  # a member of an enumeration
                yield ast.Constant(None)
        case _:
            yield from _other_operators(node)


def _other_operators(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for at, op in enumerate(ops):
                others = [*ops[:at], _OTHER_COMPARISON[type(op)](), *ops[at + 1 :]]
                yield ast.Compare(left, others, right)
        case ast.BoolOp(op=op, values=values):
            for rest in _one_less(values):
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd(), right=right):
            yield from (left, right)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OTHER_OPERATOR:
            yield ast.BinOp(left, _OTHER_OPERATOR[type(operator)](), right)


def _one_less(members: list[_T]) -> Iterator[list[_T]]:
    yield from ([*members[:at], *members[at + 1 :]] for at in range(len(members)))


def _removals(node: ast.AST) -> Iterable[tuple[str, int | None, ast.AST]]:
    """Members that may be missing from `node`: the field, the place in it, and the member."""
    match node:
        case ast.Tuple(ctx=ast.Load()) | ast.List(ctx=ast.Load()) | ast.Set():
            return _members(node, "elts")
        case ast.Dict():
            return (("keys", at, key or ast.Constant("**")) for at, key in enumerate(node.keys))
        case ast.Call():
            return _members(node, "keywords")
        case ast.comprehension():
            return _members(node, "ifs")
        case ast.Match():
            return _members(node, "cases")
        case ast.match_case(guard=ast.expr() as guard):
            return (("guard", None, guard),)
    return ()


def _members(node: ast.AST, field: str) -> Iterator[tuple[str, int, ast.AST]]:
    members: list[ast.AST] = getattr(node, field)
    # a match without a case is no syntax
    if len(members) > 1 or not isinstance(node, ast.Match):
        yield from ((field, at, member) for at, member in enumerate(members))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.comprehension):
        return f"for {ast.unparse(node.target)}"
    if isinstance(node, ast.match_case):
        return f"case {ast.unparse(node.pattern)}"
    if isinstance(node, ast.keyword):
        return f"{node.arg or '**'}="
    lines = ast.unparse(node).splitlines() or [""]
    if isinstance(node, ast.ExceptHandler):
        lines = [" ".join(line.strip() for line in lines[:2])]
    first = lines[0]
    return first if len(first) <= 120 else f"{first[:119]}…"
