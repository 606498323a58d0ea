"""The search of graph_matching, problem by problem: in NumPy, compiled, and by the peers it is compared with."""
