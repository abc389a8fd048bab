"""tmp"""
import csv
LABELS = {"a": ["cat", "dog", "bird"], "b": ["iron", "gold", "tin"]}
def write_ready(ready):
    for task, labels in LABELS.items():
        for i, (split, n) in enumerate((("train", 24), ("validation", 6), ("test", 12))):
            p = ready / "data" / task / f"{split}.csv"
            p.parent.mkdir(parents=True, exist_ok=True)
            with p.open("w", newline="") as f:
                w = csv.writer(f, lineterminator="\n"); w.writerow(["text", "label"])
                for k in range(n): w.writerow([f"{labels[k%3]} {['one','two','three'][k%2]} {100*i+k}", labels[k%3]])
def cases(): return []
