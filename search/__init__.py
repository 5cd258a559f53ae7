"""How a study is searched: slots, storage, sampling, workers, leaderboard. Optuna lives in this room alone."""
