"""One map between two residual streams, from the embeddings of the tokens that both know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.adapter.tying import vocabulary_of
from loragraft.errors import MismatchError, NonFiniteError
from loragraft.transferring.stream.conventions import embedding_scale
from loragraft.transferring.stream.tokens import shared_tokens
from loragraft.wording import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loragraft.checkpoint import Checkpoint, TensorEntry
    from loragraft.tensor_reader import TensorReader

    Array = NDArray[np.float64]

#: Tokens used at most; the first ones of the source, in BPE those merged first.
_MOST_TOKENS: Final = 10_000
_ROWS: Final = 4096
#: Share of the largest eigenvalue of MᵀM that rounding leaves alone by a factor of 1e8.
_CLEAR: Final = 1e-8


class StreamMap(NamedTuple):
    """The map of a source's residual stream into a target's.

    Attributes:
        rotation: R, (d_t, d_s), orthonormal columns, or rows where the target is narrower.
        scale: Norm of the target's embeddings, as the first layer sees them, over the source's.
        tokens: How many shared tokens it was made from.
        fit: Mean cosine of mapped and own embeddings, of tokens held out from the fit.
        note: What a reader must know of how the tokens were paired; empty where there is nothing.
    """

    rotation: Array
    scale: float
    tokens: int
    fit: float
    note: str


def stream_map(reader: TensorReader, source: Checkpoint, target: Checkpoint) -> StreamMap:
    """Find R = argmin ‖X_t − X_s Rᵀ‖_F over the (semi-)orthogonal matrices.

    X are the embeddings of the shared tokens, centred. R = U Vᵀ with U S Vᵀ the thin SVD of
    X_tᵀ X_s (Schönemann, Psychometrika 31, 1966). A scale of the embeddings, such as Gemma's √d,
    multiplies all of X: it leaves R as it is, and counts for the scale of the streams.

    Raises:
        MismatchError: Too few shared tokens, or no embedding.
        NonFiniteError: NaN or Inf in an embedding.
        FormatError: A file cannot be read.
    """
    entries = _embedding(source), _embedding(target)
    sizes = entries[0].shape[0], entries[1].shape[0]
    own, other, note = shared_tokens(source, target, sizes)
    least = min(entries[0].shape[1], entries[1].shape[1]) + 1
    if own.size < least:
        raise MismatchError(
            f"{shown(source.reference)} and {shown(target.reference)} share {own.size} tokens, of"
            f" {sizes[0]} and {sizes[1]}; a map of the residual stream needs at least {least}:"
            " choose another --method"
        )
    own, other = own[:_MOST_TOKENS], other[:_MOST_TOKENS]
    x_s, x_t = _rows(reader, entries[0], own), _rows(reader, entries[1], other)
    x_s -= x_s.mean(axis=0)
    x_t -= x_t.mean(axis=0)
    x_s *= embedding_scale(source.config, x_s.shape[1])
    x_t *= embedding_scale(target.config, x_t.shape[1])
    norms = float(np.linalg.norm(x_s)), float(np.linalg.norm(x_t))
    if not all(norms):
        raise MismatchError("the embeddings of the shared tokens are all the same on one side")
    rotation = procrustes(x_s, x_t)
    return StreamMap(rotation, norms[1] / norms[0], int(own.size), _held_out(x_s, x_t), note)


def procrustes(x_s: Array, x_t: Array) -> Array:
    """Return the (semi-)orthogonal R, (d_t, d_s), that brings x_s Rᵀ closest to x_t.

    Args:
        x_s: (n, d_s).
        x_t: (n, d_t).
    """
    return polar(x_t.T @ x_s)


def polar(cross: Array) -> Array:
    """Return U Vᵀ of the thin SVD U S Vᵀ of a matrix, with orthonormal columns, or rows.

    As M (MᵀM)^(−1/2), which takes half the time, where the eigenvalues of MᵀM tell all
    singular values apart from rounding; there its error, below 1e-8, is squared by a step of
    Newton and Schulz.
    """
    if cross.shape[0] < cross.shape[1]:
        return polar(cross.T).T
    values, vectors = np.linalg.eigh(cross.T @ cross)
    if values[0] <= _CLEAR * values[-1]:
        u, _, vt = np.linalg.svd(cross, full_matrices=False)
        return np.asarray(u @ vt)
    found = cross @ ((vectors / np.sqrt(values)) @ vectors.T)
    return np.asarray(1.5 * found - 0.5 * (found @ (found.T @ found)))


def _held_out(x_s: Array, x_t: Array) -> float:
    """Fit on every other token, and return the mean cosine of the rest."""
    # A figure of three digits does not need the product in double precision.
    cross = x_t[::2].astype(np.float32).T @ x_s[::2].astype(np.float32)
    rotation = polar(cross.astype(np.float64))
    mapped, own = x_s[1::2] @ rotation.T, x_t[1::2]
    norms = np.linalg.norm(mapped, axis=1) * np.linalg.norm(own, axis=1)
    inner = np.einsum("ij,ij->i", mapped, own)
    return float(np.mean(np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0)))


def _embedding(checkpoint: Checkpoint) -> TensorEntry:
    embedding = vocabulary_of(checkpoint).embedding
    if embedding is None:
        raise MismatchError(
            f"{shown(checkpoint.reference)}: has no token embedding, or several; shared-vocab needs"
            " one: choose another --method"
        )
    return embedding.entry


def _rows(reader: TensorReader, entry: TensorEntry, wanted: NDArray[np.intp]) -> Array:
    """Return rows of a matrix in float64, reading it a slab at a time."""
    out = np.empty((wanted.size, entry.shape[1]))
    for start in range(0, entry.shape[0], _ROWS):
        here = np.flatnonzero((wanted >= start) & (wanted < start + _ROWS))
        if here.size:
            slab = reader.rows(entry, start, min(entry.shape[0], start + _ROWS))
            out[here] = slab[wanted[here] - start]
    if not np.isfinite(out).all():
        raise NonFiniteError(
            f"{shown(entry.path)}: tensor {entry.name} holds NaN or Inf: expected finite"
            " weights; fetch the checkpoint again"
        )
    return out
