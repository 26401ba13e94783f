"""How the docstrings of keras_slots become pages: for mkdocstrings, which reads the source and imports nothing.

1. `**kwargs: Unpack[SlotArguments]` becomes the arguments themselves, in signatures and in the lists of arguments.
2. Sections in the style of Keras (`Example:` above a flush `>>>`) get headings and fences.
3. Public names in backticks become links.
"""

import re

import griffe

EXAMPLE = re.compile(r"^Example:\n\n((?:[^\s].*\n)+)", re.MULTILINE)
SECTION = re.compile(r"^(Input shape|Output shape|Reference):\n((?:    .*\n)+)", re.MULTILINE)
KEYWORDS = re.compile(r"^    \*\*kwargs: ((?:.*\n)(?:        .*\n)*)", re.MULTILINE)


def restyle(text, public):
    """A docstring with headings, fenced examples and links to the public names."""
    names = "|".join(public)
    text = re.sub(rf"`(?:keras_slots\.)?({names})(\(\w*\))?`", r"[`\1\2`][keras_slots.\1]", text)
    text = EXAMPLE.sub(r"**Example**\n\n```pycon\n\1```\n", text + "\n")
    return SECTION.sub(lambda m: f"**{m[1]}**\n\n{re.sub('^    ', '', m[2], flags=re.M)}", text)


def described(docstring):
    """Name -> description, from the `Args` section of a docstring."""
    section = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    items = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


class SlotArgumentsExtension(griffe.Extension):
    """Changes the whole package once it is loaded."""

    def on_package(self, *, pkg, **kwargs):
        arguments = pkg["layers.base.SlotArguments"]
        descriptions = described(arguments.docstring.value)
        defaults = {p.name: p.default for p in pkg["layers.base.SlotLayer.__init__"].parameters}
        parameters = [
            griffe.Parameter(
                name,
                annotation=attribute.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=defaults.get(name) or ("True" if name == "trainable" else "None"),
            )
            for name, attribute in arguments.attributes.items()
        ]
        public = [x for x in map(str, pkg.exports) if x[0] != "_"]
        for thing in list(_all(pkg)):
            if thing.is_class and "__init__" in thing.members:
                _expand(thing, parameters, descriptions)
            if thing.docstring:
                thing.docstring.value = restyle(thing.docstring.value, public)
        _expand_function(arguments, parameters)


def _all(thing):
    for member in thing.members.values():
        if not member.is_alias:
            yield member
            yield from _all(member)


def _expand(layer, parameters, descriptions):
    function = layer.members["__init__"]
    unpacked = [p for p in function.parameters if "Unpack[SlotArguments]" in str(p.annotation)]
    if not unpacked or not layer.docstring:
        return
    del function.parameters[unpacked[0].name]
    for parameter in parameters:
        function.parameters.add(parameter)
    items = "".join(f"    {p.name}: {descriptions[p.name]}\n" for p in parameters)
    text = layer.docstring.value
    found = KEYWORDS.search(text)
    note = " ".join(found[1].split())
    text = text.replace(found[0], items)
    head, args, rest = text.partition("Args:\n")
    section, _, rest = rest.partition("\n\n")
    layer.docstring.value = (
        f"{head}{args}{section}\n\nFrom `num_values` on: {note[0].lower()}{note[1:]}\n\n{rest}"
    )


def _expand_function(arguments, parameters):
    """The typed dictionary shows its keys as arguments."""
    names = list(arguments.members)
    for name in names:
        del arguments.members[name]
    function = griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
    arguments.set_member("__init__", function)
