"""What a model consumes, or why that cannot be told here: python examples/energy.py [MODEL].

The device is watched idle before and after, so that what the model adds can be told from what the
device takes anyway. Where no sensor is, a missing figure says why and is never zero.
"""

from tiny import model_path

import edge_runtime as edge
from edge_runtime.consumption import consumption

artifact = edge.Artifact.open(model_path())
workload = edge.Workload(name="pp64+tg64", prompt_tokens=64, generate_tokens=64)
record = edge.measure(artifact, workload, plan=edge.Plan(budget_s=3, idle_s=0.5))

used = consumption(record)
if isinstance(used, edge.Unavailable):
    print(f"energy unavailable: {used.reason}\n{used.remedy}")
else:
    print(f"{used.basis}: {used.source}, {used.scope}")
    for name, phase in (("prefill", used.prefill), ("decode", used.decode)):
        if isinstance(phase, edge.Unavailable):
            print(f"{name}: unavailable, {phase.reason}")
        elif phase is not None:
            gross, net = phase.gross_j_per_token, phase.net_j_per_token
            print(f"{name}: {gross.value:.3g} J/token ({gross.low:.3g} to {gross.high:.3g}) gross")
            print(f"  net: {net.reason if isinstance(net, edge.Unavailable) else net.value}")

for refusal in record.refusals:
    print(f"no {refusal.name}: {refusal.why.reason}")
