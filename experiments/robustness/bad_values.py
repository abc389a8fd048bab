"""Values that cannot be: every kind of number, flag, choice and list with what is none, generated field by field."""

from bad_cases import Case, of_overrides

NO_NUMBER = ("'three'", "true", "[1]", "{a:1}", "${nope}")
NO_COUNT = ("0", "-1", "1.5", "nan", "inf", "1e400")
COUNTS = ("method.rank", "trainer.epochs", "trainer.batch_size", "trainer.eval_batch_size", "trainer.accumulate")
FLOATS = ("method.alpha", "trainer.learning_rate", "trainer.gradient_clip")
FRACTIONS = ("method.dropout", "trainer.warmup", "tasks.files.validation_fraction", "tasks.files.test_fraction")
FLAGS = ("overwrite", "report", "method.save_weights", "trainer.gradient_checkpointing")
NULLS = (
    "method.rank",
    "method.name",
    "method.factors",
    "tasks.name",
    "model.name",
    "trainer.epochs",
    "trainer.learning_rate",
    "scenario",
    "seed",
    "data_seed",
    "eval_split",
    "results_dir",
    "tasks.files.text_column",
    "model.text_encoder.max_length",
    "model.text_encoder.pooling",
)
CHOICES = (
    "method.protocol=jiont",
    "method.trainable=none",
    "method.backend=peff",
    "method.factors=own",
    "method.basis=SVD",
    "method.gate=0",
    "method.scale=1.0",
    "method.head=linaer",
    "trainer.accelerator=tpu",
    "trainer.precision=16",
    "scenario=class-incremental",
    "eval_split=train",
    "model.text_encoder.pooling=max",
)
OTHERS = (
    ("seed=-1", "seed=-1"),
    ("seed=2147483649", "seed=2147483649"),
    ("seed=1.0", "seed=1.0"),
    ("data_seed=99999999999999999999999", "data_seed=9999"),
    ("trainer.num_workers=-1", "trainer.num_workers=-1"),
    ("trainer.max_steps=0", "trainer.max_steps=0"),
    ("trainer.max_eval_examples=-5", "trainer.max_eval_examples=-5"),
    ("trainer.checkpoint_every=-1", "trainer.checkpoint_every=-1"),
    ("trainer.checkpoint_every=nan", "trainer.checkpoint_every=nan"),
    ("method.gate_start=1", "method.gate_start=1"),
    ("method.rank=1000000000", "method.rank=1000000000"),
    ("method.rank_pattern={query:0}", "method.rank_pattern.query=0"),
    ("method.rank_pattern={query:1000000000}", "1000000000"),
    ("method.rank_pattern=3", "method.rank_pattern=3"),
    ("method.rank_pattern={nowhere:3}", "'nowhere' is the end of no adapted layer's name"),
    ("method=lora method.rank=100000", "method.rank=100000"),
    ("method=lora method.alpha=1e308", "the loss became"),
    ("method=lora trainer.learning_rate=1e6 trainer.gradient_clip=null trainer.epochs=9", "the loss became"),
    ("method=lora method.learning_rate=1e38", "method.learning_rate=1e+38"),
    ("method.target_modules=[]", "method.target_modules=[]"),
    ("method.target_modules=5", "method.target_modules=5"),
    ("method.target_modules=[null]", "method.target_modules=[None]"),
    ("method.target_modules=[qury]", "'qury' matches no linear layer"),
    ("method.target_modules=['query','']", "matches no linear layer"),
    ("method.name=../../outside", "method.name=../../outside"),
    ("method.name=''", "method.name="),
    ("tasks.name=a/b", "tasks.name=a/b"),
    ("tasks.name=..", "tasks.name=.."),
    ("model.text_encoder.max_length=1", "model.text_encoder.max_length=1"),
    ("model.text_encoder.max_length=2", "model.text_encoder.max_length=2"),
    ("model.text_encoder.max_length=1000000000", "model.text_encoder.max_length=1000000000"),
    ("tasks.order=[]", "tasks.order=[]"),
    ("tasks.order=-1", "tasks.order=-1"),
    ("tasks.order=1.5", "tasks.order=1.5"),
    ("tasks.order=true", "tasks.order=True"),
    ("tasks.order=[1,2]", "tasks.order=[1, 2]"),
    ("tasks.order=[a,c]", "unknown task 'c'"),
    ("tasks.order=[a,a]", "names a task twice"),
    ("tasks.order=a", "tasks.order=a"),
    ("results_dir=''", "results_dir="),
    ("results_dir=[a]", "results_dir="),
    ("results_dir=/proc/nowhere", "results_dir=/proc/nowhere"),
    ("results_dir=/dev/null/runs", "results_dir=/dev/null/runs"),
    (f"results_dir={'x' * 300}", "File name too long"),
    ("reproduce=nowhere", "leave out"),
    ("model.text_encoder.max_length=16 model.path=''", "model.path="),
    ("model.subfolder=7", "model.subfolder=7"),
)


def cases() -> list[Case]:
    """Return the cases."""
    rows = [(f"{key}={value}", key) for key in COUNTS for value in (*NO_COUNT, *NO_NUMBER[: 2 if "eval" in key else 5])]
    found = of_overrides("values", "no whole number above 0", rows)
    rows = [(f"{key}={value}", key) for key in FLOATS for value in ("0", "-1", "nan", "inf", "-inf", "1e400", "'0.1'")]
    found += of_overrides("values", "no finite number above 0", rows)
    rows = [(f"{key}={value}", key) for key in FRACTIONS for value in ("1", "-0.1", "nan", "half")]
    found += of_overrides("values", "no fraction", rows)
    rows = [(f"{key}={value}", key) for key in FLAGS for value in ("1", "maybe", "null", "[true]")]
    found += of_overrides("values", "neither true nor false", rows)
    found += of_overrides("values", "null where a value is needed", [(f"{key}=null", key) for key in NULLS])
    found += of_overrides("values", "no choice", [(text, text.split("=")[0]) for text in CHOICES])
    return found + of_overrides("values", "a value that cannot be", OTHERS)
