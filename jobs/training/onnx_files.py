"""ONNX graphs as they are served: input "features" float32 [N, F], output "probability" float32 [N].

Errors: SluiceError where a graph's answers differ from its model's by more than TOLERANCE.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from jobs.core import SluiceError
from jobs.files import replacing
from jobs.serving.bundle import INPUT, OUTPUT

TOLERANCE = 1e-5


def session_of(graph: bytes | Path) -> onnxruntime.InferenceSession:
    """A session on one thread, as serving makes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(graph: bytes | Path, matrix: np.ndarray) -> np.ndarray:
    """Raw probabilities of a graph."""
    result = session_of(graph).run([OUTPUT], {INPUT: matrix.astype(np.float32)})[0]
    return np.asarray(result, dtype=np.float64).reshape(-1)


def probe_rows(matrix: np.ndarray, seed: int = 0, rows: int = 4096) -> np.ndarray:
    """Rows to compare on: real ones, the same with gaps, one that is all gaps, one far outside."""
    generator = np.random.default_rng(seed)
    real = matrix[generator.permutation(len(matrix))[:rows]].astype(np.float32)
    gaps = real.copy()
    gaps[generator.random(gaps.shape) < 0.3] = np.nan
    edges = np.zeros((3, matrix.shape[1]), dtype=np.float32)
    edges[0], edges[1] = np.nan, 1e6
    return np.vstack([real, gaps, edges])


def write_checked(model: onnx.ModelProto, expected: np.ndarray, probe: np.ndarray, path: Path) -> float:
    """Write a graph after its answers were compared with its model's; gives the largest difference.

    Raises:
        SluiceError: they differ; nothing is written.
    """
    content = plain(model).SerializeToString(deterministic=True)
    onnx.checker.check_model(content)
    difference = float(np.max(np.abs(answers(content, probe) - expected)))
    if not difference <= TOLERANCE:
        raise SluiceError(
            f"ONNX export {path}: answers differ from the model's by {difference:.2e}, not {TOLERANCE:.0e}"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return difference


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without what the exporters add: random names, traces of their call stack.

    The same training then gives the same file, so that a digest tells two models apart.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.doc_string, result.graph.doc_string, result.graph.name = "", "", "fraud"
    del result.metadata_props[:]
    del result.graph.metadata_props[:]
    del result.graph.value_info[:]
    for number, node in enumerate(result.graph.node):
        node.name, node.doc_string = f"step_{number}", ""
        del node.metadata_props[:]
    for value in (*result.graph.input, *result.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    return result


def with_probability_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """A binary classifier's graph with one output: the probability of class 1, shape [N].

    The converter's graph answers a label and probabilities [N, 2].
    """
    two_columns = model.graph.output[1].name
    graph = model.graph
    graph.initializer.append(onnx.helper.make_tensor("fraud_column", onnx.TensorProto.INT64, [], [1]))
    graph.node.append(onnx.helper.make_node("Gather", [two_columns, "fraud_column"], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["rows"]))
    if not any(entry.domain == "" for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 15))
    return model
