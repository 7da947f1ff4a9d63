"""Measures a model and judges it: python examples/measure_and_judge.py [MODEL].

The record is plain JSON. Judging it again, tomorrow or elsewhere, needs no engine.
"""

import json

from tiny import model_path

import edge_runtime as edge

artifact = edge.Artifact.open(model_path())
workload = edge.Workload(name="pp128+tg64", prompt_tokens=128, generate_tokens=64)
record = edge.measure(artifact, workload, plan=edge.Plan(budget_s=3))

text = json.dumps(record.to_json())
again = edge.Measurement.from_json(json.loads(text))
target = edge.Target(decode_tokens_per_s=20, context_tokens=512, prompt_tokens=128)
verdict = edge.judge(again, target, kv_bytes=artifact.shape.kv_bytes(512))

print(f"{artifact.name} {artifact.level}: {verdict.kind} ({verdict.basis}), {verdict.cause}")
rate = again.decode_tokens_per_s
assert rate is not None
print(f"decode {rate.value:.1f} tokens/s, 95 % interval {rate.low:.1f} to {rate.high:.1f}")
print(f"memory needed {verdict.memory.need_bytes / 2**20:.0f} MiB")
if verdict.next_step:
    print(f"next: {verdict.next_step}")
