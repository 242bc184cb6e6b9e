"""What a routing policy is worth, and how sure that is: from episodes to numbers, tables, plots and a report.

Episodes become per-policy metrics (`metrics`) with intervals clustered by task variation (`statistics`) and the gain
over the single models' cost-score hull (`hull`). They are kept in one `results.json` (`results`), and everything that
people look at is drawn from that file: `tables`, `plots`, `tensorboard` and `report`. `metric_names` is the one table
of metric names.
"""
