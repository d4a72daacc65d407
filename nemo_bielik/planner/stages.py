"""How layers are dealt over pipeline stages; the engine builds exactly this."""

from functools import lru_cache


@lru_cache(maxsize=1024)
def layers_of_stages(num_layers: int, stages: int) -> tuple[int, ...]:
    """Spread layers over stages as evenly as they go.

    A remainder goes to the stages in the middle first: the first also holds the embedding and the
    last the output layer. 50 layers on 4 stages are 12, 13, 13, 12.
    """
    counts = [num_layers // stages] * stages
    by_distance = sorted(range(stages), key=lambda stage: (abs(2 * stage - (stages - 1)), stage))
    for stage in by_distance[: num_layers % stages]:
        counts[stage] += 1
    return tuple(counts)
