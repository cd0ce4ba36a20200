"""Where elements lie, as opyard_codegen.layout says."""

from opyard_codegen.layout import broadcast_strides, collapsed, sizes_of

__all__ = ["broadcast_strides", "collapsed", "sizes_of"]
