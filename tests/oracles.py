"""The paper's equations by explicit loops in float64: what the package's fast forms are compared with."""
import math
from fractions import Fraction

import numpy as np
import torch

from autodim.method.lookup import Candidates

EPS, MOMENTUM = 1e-5, 0.1  # of BatchNorm


def random_candidates(rng: np.random.Generator, n_fields: int, uniform: bool = False) -> Candidates:
    """A random grid of 1 to 4 dimensions, and a random non-empty set of them for each field."""
    dims = tuple(sorted(rng.choice(np.arange(1, 9), rng.integers(1, 5), replace=False).tolist()))
    if uniform:
        return Candidates(dims, (dims,) * n_fields)
    sets = [sorted(rng.choice(dims, rng.integers(1, len(dims) + 1), replace=False).tolist()) for _ in range(n_fields)]
    return Candidates(dims, tuple(map(tuple, sets)))


def random_ids(rng: np.random.Generator, cardinalities, n: int) -> torch.Tensor:
    return torch.tensor(np.stack([rng.integers(0, c, n) for c in cardinalities], 1))


def field_tables(embedding, cardinalities) -> list[torch.Tensor]:
    """Each field's own table [c, width]: views into the stacked tables, one a width, fields in their order."""
    stacked = {table.weight.shape[1]: table.weight.detach() for table in embedding.tables}
    used, tables = dict.fromkeys(stacked, 0), []
    widths = [d * embedding.tables_per_field for d in embedding.dims]
    for size, width in zip(cardinalities, widths):
        tables.append(stacked[width][used[width]:used[width] + size])
        used[width] += size
    return tables


def candidate_embeddings(tables, candidates: Candidates, shared: bool, ids) -> list[list[np.ndarray | None]]:
    """Fig. 3: x_m^n [B, d_n] for each field and candidate, None where it is not allowed."""
    found = []
    for m, (table, allowed) in enumerate(zip(tables, candidates.allowed)):
        table, start, row = table.double().numpy(), 0, []
        for d in candidates.dims:
            if d not in allowed:
                row.append(None)
                continue
            row.append(np.array([[table[int(i), start + j] for j in range(d)] for i in ids[:, m]]))
            start += 0 if shared else d
        assert table.shape[1] == (max(allowed) if shared else start)
        found.append(row)
    return found


class Transformation:
    """Eq. 1-4 and 7: a loop over fields, candidates, digits and rows, with BatchNorm's running statistics.

    Args:
        weights, biases: W_n [1 or M, d_n, d_N] and b_n [1 or M, d_N] of the linear transformation; None: zero padding.
    """

    def __init__(self, dims, n_fields: int, weights=None, biases=None) -> None:
        self.dims, self.weights, self.biases = dims, weights, biases
        self.mean = np.zeros((n_fields, len(dims), dims[-1]))
        self.var = np.ones((n_fields, len(dims), dims[-1]))

    def __call__(self, x, p: np.ndarray, training: bool) -> np.ndarray:
        n_rows = next(len(c) for row in x for c in row if c is not None)
        out = np.zeros((n_rows, len(x), self.dims[-1]))
        for m, row in enumerate(x):
            for n, x_mn in enumerate(row):
                for j in range(self.dims[-1]):
                    if x_mn is None or self.weights is None and j >= self.dims[n]:
                        continue  # not allowed, or a zero of the padding
                    tilde = [self.digit(x_mn[i], m, n, j) for i in range(n_rows)]
                    hat = self.normalised(tilde, (m, n, j), training)
                    for i in range(n_rows):
                        out[i, m, j] += p[m, n] * hat[i]
        return out

    def digit(self, x: np.ndarray, m: int, n: int, j: int) -> float:
        if self.weights is None:
            return x[j]
        copy = m if len(self.weights[n]) > 1 else 0
        return sum(self.weights[n][copy, k, j] * x[k] for k in range(self.dims[n])) + self.biases[n][copy, j]

    def normalised(self, values: list[float], place: tuple[int, int, int], training: bool) -> list[float]:
        mean, var = self.mean[place], self.var[place]
        if training:
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            self.mean[place] += MOMENTUM * (mean - self.mean[place])
            self.var[place] += MOMENTUM * (var * len(values) / (len(values) - 1) - self.var[place])
        return [(v - mean) / math.sqrt(var + EPS) for v in values]


def gumbel_softmax(log_alpha: np.ndarray, tau: float, noise: np.ndarray) -> np.ndarray:
    """Eq. 6 by loops."""
    p = np.zeros_like(log_alpha)
    for m in range(len(p)):
        terms = [math.exp((log_alpha[m, n] + noise[m, n]) / tau) for n in range(p.shape[1])]
        for n, term in enumerate(terms):
            p[m, n] = term / sum(terms)
    return p


def search_loss(weights: dict, shape: tuple, logits, noise, tau: float, ids, labels):
    """Training-mode loss of the search model, Eq. 1-10 a field and a candidate at a time, as a torch expression.

    Args:
        weights: `tables` [M] of [c, width], `W` [N] of [1 or M, d_n, d_N] (empty: zero padding), and the
            backbone's `A1`, `c1`, `gain`, `shift`, `A2`, `c2`: one hidden layer with BatchNorm and ReLU.
        shape: (dims, shared).
    """
    (dims, shared), fields = shape, []
    e = ((logits - logits.logsumexp(1, keepdim=True) + noise) / tau).exp()
    p = e / e.sum(1, keepdim=True)
    for m, table in enumerate(weights["tables"]):
        x, start = 0, 0
        for n, d in enumerate(dims):
            z = table[ids[:, m], start:start + d]
            z = z @ weights["W"][n][m if len(weights["W"][n]) > 1 else 0] if weights["W"] else z
            z = (z - z.mean(0)) / (((z - z.mean(0)) ** 2).mean(0) + EPS).sqrt()
            x = x + p[m, n] * torch.cat([z, z.new_zeros(len(z), dims[-1] - z.shape[1])], 1)
            start += 0 if shared else d
        fields.append(x)
    h = torch.cat(fields, 1) @ weights["A1"].T + weights["c1"]
    h = (h - h.mean(0)) / (((h - h.mean(0)) ** 2).mean(0) + EPS).sqrt() * weights["gain"] + weights["shift"]
    y = 1 / (1 + (-(h.clamp_min(0) @ weights["A2"].T + weights["c2"]).squeeze(1)).exp())
    return -(labels * y.log() + (1 - labels) * (1 - y).log()).mean()


def bucket_edges(training, q: int) -> list[float]:
    """Middles between neighbours, by loops over the rows: both sides of each value with more rows than a bucket of the
    others, and before every quantile of the rest (the least value with more rows than so many at or below it)."""
    rows = sorted(float(v) for v in training if v is not None and v == v)
    values, own = sorted(set(rows)), set()
    while True:
        rest = [v for v in rows if v not in own]
        more = {v for v in set(rest) if rest.count(v) * (q - len(own)) > len(rest)}
        if not more:
            break
        own |= more
    left = q - len(own)
    before = {rest[math.floor(Fraction(k * len(rest), left))] for k in range(1, left)} if rest else set()
    pairs = zip(values, values[1:])
    return [(a + b) / 2 for a, b in pairs if b in before or a in own or b in own]
