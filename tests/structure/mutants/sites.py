from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.structure.normal_form import is_docstring


@dataclass(frozen=True, slots=True)
class Site:
    """One mutation of a function: which bytes of its file become what."""

    kind: str
    #: Number of this one among those of its kind in the function.
    ordinal: int
    line: int
    start: int
    end: int
    #: The code as it is and as it becomes, on one line each.
    original: str
    mutated: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.mutated.encode() + source[self.end :]


#: What is logged, counted or shown decides nothing.
_NOTES = re.compile(
    r"^(await )?(_?log|logging|metrics|warnings|audit)\b"
    r"|\.(inc|dec|observe|labels|info|debug|warning|exception|add_note)\("
    r"|\b_?(tell|told|warn)\w*\("
)
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_NEXT: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


def sites_of(function: ast.FunctionDef | ast.AsyncFunctionDef, source: bytes) -> list[Site]:
    """Every mutation of a function, in the order of its code.

    A move of files changes none of them, nor their ordinals.
    """
    starts = _line_starts(source)
    counts: Counter[str] = Counter()
    found = []
    for kind, node, mutated in _of_block(function.body):
        if kind == "remove" and function.name == "__init__":
            continue  # an attribute that is missing fails at once
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        text = ast.unparse(node)
        found.append(Site(kind, counts[kind], node.lineno, start, end, text, mutated))
        counts[kind] += 1
    return found


_Mutation = tuple[str, ast.stmt | ast.expr, str]


def _of_block(body: list[ast.stmt]) -> Iterator[_Mutation]:
    for node in body:
        yield from _of_statement(node)


def _of_statement(node: ast.stmt) -> Iterator[_Mutation]:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert) or is_docstring(node):
        return
    if _only_notes(node):
        return
    if _can_go(node):
        yield "remove", node, "pass"
    if isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        yield "return", node, "return None"
    if isinstance(node, ast.Raise):
        return  # what an error says is no decision
    for name, value in ast.iter_fields(node):
        if name in {"decorator_list", "args", "returns", "annotation", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt):
                yield from _of_statement(child)
            elif isinstance(child, ast.expr):
                yield from _of_expression(child, tested=name == "test")
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from _of_block(child.body)
            elif isinstance(child, ast.withitem):
                yield from _of_expression(child.context_expr)


def _only_notes(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return all(_only_notes(one) for one in (*node.body, *node.orelse))
    compound = hasattr(node, "body") or isinstance(node, ast.Match)
    return not compound and bool(_NOTES.search(ast.unparse(node)))


def _can_go(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()):
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
        case _:
            return isinstance(node, ast.AugAssign | ast.Delete | ast.Raise | ast.Continue)


def _of_expression(node: ast.expr, *, tested: bool = False) -> Iterator[_Mutation]:
    match node:
        case ast.JoinedStr() | ast.Lambda():
            return  # places in a text are not told exactly; a lambda is mostly a key
        case ast.Compare(ops=[operator]):
            for kind, table in (("comparison", _OPPOSITE), ("boundary", _NEXT)):
                if other := table.get(type(operator)):
                    changed = ast.Compare(node.left, [other()], node.comparators)
                    yield kind, node, f"({ast.unparse(changed)})"
        case ast.BoolOp(op=operator, values=values):
            swapped = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "and/or", node, f"({ast.unparse(ast.BoolOp(swapped, values))})"
        case ast.Constant(value=bool(value)):
            yield "boolean", node, str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant+1", node, f"({value!r} + 1)"
            yield "constant-1", node, f"({value!r} - 1)"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", node, f"bool({ast.unparse(operand)})"
        case _ if tested:
            yield "boolean", node, f"(not ({ast.unparse(node)}))"
    if isinstance(node, ast.BoolOp) and tested:
        yield "boolean", node, f"(not ({ast.unparse(node)}))"
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.expr):
                yield from _of_expression(child, tested=name == "test")
            elif isinstance(child, ast.keyword):
                yield from _of_expression(child.value)
            elif isinstance(child, ast.comprehension):
                yield from _of_expression(child.iter)
                for test in child.ifs:
                    yield from _of_expression(test, tested=True)


def _line_starts(source: bytes) -> list[int]:
    """The offset of each line's first byte."""
    return [0, *(number + 1 for number, byte in enumerate(source) if byte == ord("\n"))]
