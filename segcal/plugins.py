"""What other packages add to segcal: tasks, losses, layouts and metrics, found by their entry points.

A plug-in is loaded when its name is asked for, never before: what segcal brings itself is answered without looking at
any. One that cannot be loaded is named with the reason, and everything else works. It runs with the rights of whoever
runs segcal, as every installed package does.
"""

__all__ = ["Extensions", "Plugin", "PluginMismatch", "check_installed", "one_line"]

import logging
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from segcal.errors import UsageError, nearest

# importlib.metadata takes 20 ms: it is imported where a plug-in is looked for.

T = TypeVar("T")
NAME = r"[A-Za-z0-9][\w.-]*"  # names stand in columns, in registered models and in names of files
_LONGEST = 300  # characters of a reason

log = logging.getLogger(__name__)


class PluginMismatch(UsageError):
    """A trial or a score needs a plug-in that is absent here, or of another version."""


@dataclass(frozen=True)
class Plugin:
    """One name of a group: where it comes from, and whether it can be used."""

    group: str  # tasks, losses, layouts or metrics
    name: str
    distribution: str  # the package as pip knows it; "segcal" for what segcal brings itself
    version: str
    object: str = ""  # module:object
    state: Literal["ok", "failed", "refused", "not loaded"] = "ok"
    reason: str = ""  # why it failed or was refused; one line

    @property
    def origin(self) -> str:
        """The distribution and its version, as pip takes them."""
        return f"{self.distribution}=={self.version}"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.object})"


class Extensions(Mapping[str, T], Generic[T]):
    """A group: what segcal brings, and behind it what plug-ins add, under names of its own.

    A name that is in it can be used; the names of plug-ins that failed or were refused are not in it. Iterating gives
    what segcal brings first and loads the plug-ins one after another. accept: the plug-in's object under its name as it
    is to be kept; raises ValueError with the rule that it breaks.
    """

    def __init__(self, group: str, what: str, built_in: Mapping[str, T], accept: Callable[[str, Any], T]) -> None:
        self.group, self.built_in = group, built_in
        self._what, self._accept = what, accept  # what: a task, a loss ... in messages
        self.rescan()

    def rescan(self) -> None:
        """Forget what was found: look again at what is installed."""
        self._known: dict[str, Plugin] | None = None
        self._clashes: tuple[Plugin, ...] = ()
        self._entries: dict[str, Any] = {}  # importlib.metadata.EntryPoint
        self._objects: dict[str, T] = {}
        self._told: set[Plugin] = set()

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str):
            raise KeyError(name)
        if name in self.built_in:
            return self.built_in[name]
        plugin = self._load(name)
        if plugin is None:
            raise KeyError(name)
        if plugin.state != "ok":
            self._tell(plugin)
            raise KeyError(name)
        return self._objects[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        for clash in self._scan_clashes():
            self._tell(clash)
        yield from (name for name in self._scan() if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in of a name; None for what segcal brings itself, and for a name that nothing has. Loads nothing."""
        return None if name in self.built_in else self._scan().get(name)

    def origin(self, name: str) -> tuple[str, ...]:
        """The distribution that a name comes from, "name==version"; empty where that is segcal. Loads nothing."""
        plugin = self.plugin(name)
        return () if plugin is None or plugin.state == "refused" else (plugin.origin,)

    def added(self) -> dict[str, Plugin]:
        """The plug-ins that can be used, by name."""
        return {name: self._scan()[name] for name in self if name not in self.built_in}

    def listed(self) -> list[Plugin]:
        """Everything that is there, in working order or not."""
        import segcal

        own = [Plugin(self.group, name, "segcal", segcal.__version__) for name in self.built_in]
        found = [plugin for name in self._scan() if (plugin := self._load(name)) and plugin.state != "refused"]
        return own + found + list(self._scan_clashes())

    def require(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Raise PluginMismatch unless these names, each with the origin that it has elsewhere, can be used here."""
        for name, origin in wanted:
            check_installed([origin])
            if name not in self:
                raise PluginMismatch(f"{self.unknown(name)}; on {platform.node()}")

    def unknown(self, name: str) -> str:
        """An "unknown name" message: why a plug-in of this name cannot be used, the nearest names, and all of them."""
        plugin = self._load(name)
        why = f"the plug-in {_told(plugin)}; " if plugin and plugin.reason else ""
        usable = [*self.built_in, *(other for other, p in self._scan().items() if p.state in ("ok", "not loaded"))]
        return f"no {self._what} named '{name}'; {why}{nearest(name, usable)}"

    def _load(self, name: str) -> Plugin | None:
        # No lock: a module that is being imported may ask for names itself, and Python locks each import already.
        known = self._scan()
        plugin = known.get(name)
        if plugin is None or plugin.state != "not loaded":
            return plugin
        try:
            given = self._entries[name].load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of foreign code, which may raise anything
            known[name] = replace(plugin, state="failed", reason=one_line(error))
            return known[name]
        try:
            self._objects[name] = self._accept(name, given)
        except Exception as error:
            known[name] = replace(plugin, state="failed", reason=" ".join(str(error).split())[:_LONGEST])
        else:
            known[name] = replace(plugin, state="ok")
        return known[name]

    def _scan(self) -> dict[str, Plugin]:
        """Every plug-in by its name; nothing is loaded."""
        if self._known is None:
            entries = [(entry, self._described(entry)) for entry in _entry_points(f"segcal.{self.group}")]
            count = Counter(plugin.name for _, plugin in entries)
            known: dict[str, Plugin] = {}
            clashes = []
            for entry, plugin in entries:
                if plugin.state != "refused" and count[plugin.name] > 1:
                    both = " and ".join(sorted(str(other) for _, other in entries if other.name == plugin.name))
                    why = f"a name must belong to one plug-in, got {both}; uninstall all but one"
                    plugin = replace(plugin, state="refused", reason=why)
                if plugin.state == "refused":
                    clashes.append(plugin)
                if plugin.name not in self.built_in:
                    known[plugin.name], self._entries[plugin.name] = plugin, entry
            self._clashes = tuple(clashes)
            self._known = known
        return self._known

    def _scan_clashes(self) -> tuple[Plugin, ...]:
        self._scan()
        return self._clashes

    def _described(self, entry: Any) -> Plugin:
        distribution, version = _distribution_of(entry)
        plugin = Plugin(self.group, entry.name, distribution, version, entry.value, "not loaded")
        if entry.name in self.built_in:
            why = "the name must be its own, got one of segcal itself; another name is the author's to choose"
            return replace(plugin, state="refused", reason=why)
        if not re.fullmatch(NAME, entry.name):
            why = f"a name must be letters, digits, _, - and ., got '{entry.name}'; another is the author's to choose"
            return replace(plugin, state="refused", reason=why)
        return plugin

    def _tell(self, plugin: Plugin) -> None:
        """Warn of it, once."""
        if plugin not in self._told:
            self._told.add(plugin)
            log.warning("%s '%s' left out: the plug-in %s", self._what, plugin.name, _told(plugin))


def check_installed(required: Iterable[str]) -> None:
    """Raise PluginMismatch unless these distributions, "name==version", are installed here in just that version."""
    from importlib.metadata import PackageNotFoundError, version

    for wanted in required:
        name, _, needed = wanted.partition("==")
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "none"
        if here != needed:
            raise PluginMismatch(
                f"the plug-in {name} must be version {needed} on every machine, got {here} on {platform.node()}; "
                f"pip install {wanted}"
            )


def _entry_points(group: str) -> list[Any]:
    from importlib.metadata import entry_points

    try:
        return list(entry_points(group=group))
    except Exception as error:  # one damaged package of the environment spoils the list of all
        log.warning("no plug-ins: the installed packages' entry points cannot be read (%s)", one_line(error))
        return []


def _distribution_of(entry: Any) -> tuple[str, str]:
    """Name, the way pip writes all names, and version; "unknown" and "0" where the package does not say."""
    try:
        name, version = entry.dist.name, entry.dist.version
    except Exception:  # metadata without what they must have
        name, version = None, None
    return re.sub(r"[-_.]+", "-", name or "unknown").lower(), version or "0"


def _told(plugin: Plugin) -> str:
    return f"{plugin} {'failed' if plugin.state == 'failed' else 'is refused'}: {plugin.reason}"


def one_line(error: BaseException) -> str:
    """What foreign code raised, for a message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_LONGEST] if text else type(error).__name__
