"""Every compression method, at every budget, on the same rows with the same backbone: one leaderboard.

``cells`` says what is to be trained, ``measuring`` and ``cell_step`` do it, ``leaderboard`` puts the results together,
``recommending`` names a method for each budget, ``curve`` and ``pages`` show it, ``leaderboard_step`` writes it.
"""
