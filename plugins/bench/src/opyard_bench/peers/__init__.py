"""Other runtimes as contestants: each runs the graphs of the model suite by itself, in a process of its own."""
