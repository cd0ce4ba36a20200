"""The exceptions of opyard.

OpyardError
├── SpecError           shapes, dtypes or attributes that an op cannot take (a ValueError)
├── GraphError          a graph that is not well formed, or a feed or fetch that it does not have (a ValueError)
├── RegistryError       names: unknown, doubly defined, or malformed registrations (a LookupError)
├── PluginError         a plugin that cannot be loaded, raised only under OPYARD_STRICT=1
├── SettingsError       an environment variable or option that says something impossible (a ValueError)
├── DeviceError         a device that failed
│   └── DeviceUnavailable   no such device here; the text says what to install
├── KernelError         a kernel that failed and has no substitute
└── PlacementError      no kernel, or no device, for an op

Every text says what was asked, what was found and what to type next.
"""


class OpyardError(Exception):
    """Base of all errors that opyard raises on purpose."""


class SpecError(OpyardError, ValueError):
    """Shapes, dtypes or attributes that an op cannot take."""


class GraphError(OpyardError, ValueError):
    """A graph that is not well formed, or a feed or fetch that it does not have."""


class RegistryError(OpyardError, LookupError):
    """A name that is unknown or defined twice, or a malformed registration."""


class PluginError(OpyardError):
    """A plugin that cannot be loaded."""


class SettingsError(OpyardError, ValueError):
    """A setting that says something impossible."""


class DeviceError(OpyardError):
    """A device that failed."""


class DeviceUnavailable(DeviceError):
    """No such device on this machine. The text is a sentence that says what to install."""


class CheckpointError(OpyardError):
    """A checkpoint that is damaged, or does not fit."""


class KernelError(OpyardError):
    """A kernel that failed and has no substitute."""


class PlacementError(OpyardError):
    """No kernel, or no device, for an op."""


def installing(requirement: str) -> str:
    """The command that installs one of opyard's own distributions, as long as they are on no package index."""
    return f"`pip install --find-links dist '{requirement}'` (wheels of a checkout: see \"Install from wheels\" in opyard's README)"


def did_you_mean(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """A closing sentence that names the nearest known names, or an empty string."""
    import difflib  # only when an error is being written

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""
