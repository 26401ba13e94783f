"""How the docstrings of keras_slots become pages.

mkdocstrings reads the source, in which the arguments of slot layers are missing: they come from Keras when the
package is imported. So signatures and docstrings of these classes are asked of the package itself.

The arguments of a slot layer are listed in three groups. Sections in the style of Keras (`Example:` above a flush
`>>>`) get headings and fences, and public names in backticks become links.
"""

import inspect
import re

import griffe

import keras_slots
from keras_slots.layers.base import SLOT_ARGUMENTS

#: The slot arguments that most networks set.
USUAL = ("num_values", "selection", "score_mode", "seed")
ARGUMENTS = re.compile(r"^Args:\n((?:    .*\n?)+)", re.MULTILINE)
OF_A_KERNEL = re.compile(r"(?!bias_|activity_)\w+_(initializer|regularizer|constraint)")
EXAMPLE = re.compile(r"^Example:\n\n((?:[^\s].*\n)+)", re.MULTILINE)
SECTION = re.compile(r"^(Input shape|Output shape|Reference):\n((?:    .*\n)+)", re.MULTILINE)


def restyle(text, public):
    """A docstring with headings, fenced examples and links to the public names."""
    names = "|".join(public)
    text = re.sub(rf"`(?:keras_slots\.)?({names})(\(\w*\))?`", r"[`\1\2`][keras_slots.\1]", text)
    text = EXAMPLE.sub(r"**Example**\n\n```pycon\n\1```\n", text + "\n")
    return SECTION.sub(lambda m: f"**{m[1]}**\n\n{re.sub('^    ', '', m[2], flags=re.M)}", text)


def grouped(text):
    """A docstring whose arguments stand under the titles of three groups."""
    section = ARGUMENTS.search(text)
    if not section or any(f"    {name}: " not in section[1] for name in SLOT_ARGUMENTS):
        return text
    groups = {"Arguments as in Keras": [], "Slot arguments": [], "Advanced arguments": []}
    for item in re.findall(r"^ {4}\w+: .*\n?(?: {5,}.*\n?)*", section[1], re.MULTILINE):
        name = item.strip().partition(":")[0]
        if name in USUAL:
            groups["Slot arguments"].append(item)
        elif name in SLOT_ARGUMENTS or OF_A_KERNEL.fullmatch(name):
            groups["Advanced arguments"].append(item)
        else:
            groups["Arguments as in Keras"].append(item)
    lists = [f"Args: {title}\n{''.join(items).rstrip()}\n" for title, items in groups.items() if items]
    return ARGUMENTS.sub(lambda _: "\n".join(lists), text, count=1)


class SlotLayersExtension(griffe.Extension):
    """Changes the whole package once it is loaded."""

    def on_package(self, *, pkg, **kwargs):
        public = [x for x in map(str, pkg.exports) if x[0] != "_"]
        for thing in list(_all(pkg)):
            if not thing.docstring:
                continue
            if thing.is_class and "{shared}" in thing.docstring.value:
                _complete(thing, getattr(keras_slots, thing.name))
            thing.docstring.value = restyle(grouped(thing.docstring.value), public)


def _all(thing):
    for member in thing.members.values():
        if not member.is_alias:
            yield member
            yield from _all(member)


def _complete(thing, layer):
    """Gives a class the docstring and the signature that it has once it is imported."""
    thing.docstring.value = inspect.getdoc(layer)
    parameters = [
        griffe.Parameter(
            p.name,
            annotation=None if p.annotation is p.empty else str(p.annotation),
            kind=griffe.ParameterKind[p.kind.name.lower()],
            default=None if p.default is p.empty else repr(p.default),
        )
        for p in inspect.signature(layer).parameters.values()
    ]
    function = griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
    thing.set_member("__init__", function)
