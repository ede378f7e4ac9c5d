"""The commands, a line and an example each: what ``--help`` shows. It imports nothing of ours, so help is quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: its one line, and more help."""

    summary: str
    usage: str


COMMANDS = {
    "train": Command(
        "train one stage, or the stages that the experiment lists; alone: the embedded demo",
        """llava-moe train [exp=NAME] [adapter=NAME] [model=NAME] [data=NAME] [scale=demo|evening] [key=value ...]

  llava-moe train                                     the whole story on an embedded small model and real images
  llava-moe train scale=evening                       the same story with more steps, for an evening
  llava-moe train exp=mix_general_doc_med             the headline: general + document + medical, LLaVA-MoLE, 7B
  llava-moe train exp=mix_doc scale=demo adapter=lora any experiment on the embedded model and images
  llava-moe train data=mix.yaml                       your own sources, in a file that llava-moe init writes
  llava-moe train path=train.json images=folder       one file, or 'path={charts: charts.json, photos: photos.jsonl}'
  llava-moe train --config-dir FOLDER exp=NAME        FOLDER/exp/NAME.yaml, FOLDER/data/NAME.yaml of your own
  llava-moe train ... --cfg job                       print the configuration and stop; -m a=1,2 runs several

Keys that are often set: train.global_batch_size, train.tokens_per_micro_batch, train.max_steps, train.epochs,
train.dtype, train.activation_checkpointing, data.max_bad_share, init_from=RUN, out=FOLDER, seed, log.wandb.
stage.learning_rates.PART=1e-5 is the rate of adapter, projector, language_model or vision_tower at every scale, and
unfreezes it; ~stage.learning_rates.PART freezes it.
Started again with the same settings, an unfinished run resumes and a finished one prints its table.""",
    ),
    "init": Command(
        "write a mixture yaml from your own files: formats, image folders, splits and counts are found out",
        """llava-moe init FILE.yaml NAME=DATA [NAME=DATA ...] [images=FOLDER]

  llava-moe init mix.yaml charts=charts.json photos=photos.jsonl scans=scans.parquet
  llava-moe init mix.yaml charts=charts.json photos=photos.jsonl images='{charts: pictures, photos: snaps}'

NAME is a domain: losses and experts are counted by it. DATA is a file of JSON, JSON Lines or Parquet, a folder of them,
a pattern, an address (hf://datasets/OWNER/NAME) or a folder that llava-moe data prepare made. Nothing is copied, and a
FILE that is there is never overwritten. Then: llava-moe data check data=FILE.yaml, llava-moe train data=FILE.yaml.""",
    ),
    "data": Command(
        "look at a mixture before any GPU time: prepare | check | stats | preview",
        """llava-moe data prepare recipe=NAME downloads=FOLDER    downloads to Parquet shards, in data/NAME
llava-moe data check [exp=NAME] [key=value ...]        every record and image of the mix: faults, leaks, duplicates
llava-moe data stats [exp=NAME] [key=value ...]        records, tokens and shares by domain, lengths, repeats
llava-moe data preview [exp=NAME] [key=value ...]      the first rows as they will be trained

check, stats and preview take the words of llava-moe train. llava-moe ls recipe lists the recipes.
llava-moe data prepare --help (check, stats, preview) tells more.""",
    ),
    "plan": Command(
        "tell what a llava-moe train command will take: steps, tokens, memory by part, time, disk",
        """llava-moe plan [words of llava-moe train] [device=NAME] [num_devices=N] [probe=true] [out=FOLDER]

  llava-moe plan exp=mix_general_doc_med device=a100-80 num_devices=8
  llava-moe plan exp=mix_doc model=random_7b device=rtx4090-24      the 7B's shape, without its tokenizer
  llava-moe plan scale=demo exp=mix_doc probe=true                  20 real steps here, in a folder thrown away

Nothing is trained, and no weights are read: the real model and the real step are traced without them. Data that is not
there yet is counted as published. What cannot fit is refused, with the nearest change that does.
Keys: device=cpu or a GPU's name (llava-moe plan device=? lists them), mfu=0.4, out=FOLDER for plan.json.""",
    ),
    "eval": Command(
        "score a run (or a Hugging Face LLaVA: model.path=) on benchmarks",
        """llava-moe eval run=FOLDER [benchmarks=[demo]] [protocol=llava_1_5] [key=value ...]
llava-moe eval run=FOLDER 'benchmarks=[pathvqa,pope]' benchmark_root=FOLDER
llava-moe eval run=FOLDER 'benchmarks=[questions.jsonl]'                     your own questions, as data= takes files
llava-moe eval run=FOLDER limit=3                 three questions of each kind: a first look, marked as a part
llava-moe eval run=FOLDER 'benchmarks=[chartqa]' benchmark_paths.chartqa=hf://datasets/lmms-lab/ChartQA
llava-moe eval model.path=llava-hf/llava-1.5-7b-hf [model.peft=FOLDER]       a Hugging Face LLaVA, a PEFT LoRA on it
llava-moe eval model.endpoint=http://localhost:8000/v1 model.name=NAME       whatever vLLM or another server serves
torchrun --nproc-per-node=8 -m llava_moe eval run=FOLDER                     several GPUs share the questions
llava-moe eval 'runs=[FOLDER,FOLDER,FOLDER]'       compares runs with the first: paired intervals, a page, LaTeX
llava-moe eval 'runs=[FOLDER,FOLDER]' held_out=true  their losses on held-out records, measured where they are not known
llava-moe eval run=FOLDER blind=true               the same questions beside grey images: a baseline of runs=
llava-moe eval run=FOLDER leaks=true               which of the scored questions stand in what it was trained on
llava-moe eval run=FOLDER judge.endpoint=ADDRESS judge.name=NAME   a model judges the answers (Tiny LVLM-eHub's CEE)

Protocols fix wording, decoding and scorer: llava_1_5 (default), lmms_eval, llava_mole, mixlora. A benchmark's data lies
in data/benchmarks/NAME unless said otherwise; llava-moe ls benchmark lists them. A file of your own (JSON, JSON Lines,
Parquet) is scored by its last answers: exact match, token F1, beside the majority, another image and blind=true; images
are found near it, or in images=FOLDER (docs/evaluation.md).
Answers go to FOLDER/eval/BENCHMARK.answers.jsonl as they come; an interrupted evaluation goes on where it was,
with any number of processes. A server's key comes from the environment: LLAVA_MOE_API_KEY, or the variable that
model.api_key_env= names. A checkpoint is asked as its files say (chat template, image processor); model.template=v1 and
model.image_mode=pad ask as LLaVA-1.5 was trained.""",
    ),
    "chat": Command(
        "talk to a run (or a Hugging Face LLaVA: model.path=) about images, in the terminal",
        """llava-moe chat run=FOLDER                                talk; drag images into the window, /help there
llava-moe chat run=FOLDER image=FILE prompt='What is this?'   one question: prints the answer alone
llava-moe chat run=FOLDER < questions.txt                     a question a line: prints an answer a line or more
llava-moe chat model.path=llava-hf/llava-1.5-7b-hf [model.peft=FOLDER]

A checkpoint is asked as its files say (chat template, image processor); model.template=v1 and model.image_mode=pad ask
as LLaVA-1.5 was trained.
Keys: max_new_tokens=512, temperature=0 (greedy), top_p=1, repetition_penalty=1 (the answer's own tokens), seed,
num_threads, dtype=fp32|bf16|fp16. Answers go to standard output, all else to standard error.
Ctrl-C stops an answer; twice, or Ctrl-D, leaves.""",
    ),
    "compare": Command(
        "train runs that differ by some values, and set them on one page: loss, scores, curves, routing, cost",
        """llava-moe compare KEY=[VALUE,VALUE] [KEY=[...] ...] [words of llava-moe train] [key=value ...]

  llava-moe compare 'adapter=[lora,llava_mole,mixlora]' 'seed=[0,1,2]'              on the embedded demo
  llava-moe compare 'adapter=[lora,llava_mole]' 'seed=[0,1,2]' data=mix.yaml at_once=2
  llava-moe compare adapter=llava_mole 'adapter.num_experts=[2,4,8]' exp=mix_general_doc_med scale=demo
  llava-moe compare 'adapter.target_modules=[[q_proj,v_proj],[gate_proj,up_proj,down_proj]]'

A key with a list makes a run of each value, with all values of the others; a key that is a list itself takes a list of
lists. Differences are to the value named first, paired over the same records, questions and seeds.
Runs that are there are not made again; killed and started again it goes on; more values add runs to those that are
there; a run that fails is told, the rest goes on. Runs of one experiment share their first stage where they can.
Writes to runs/compare/NAME/: index.html, results.json, and in cells/ every run.
Keys: at_once=1, only=RUN (and what it starts from), commands=true (a command a run, for a batch system; makes nothing),
yes=true (more than 24 runs), out=FOLDER.""",
    ),
    "compose": Command(
        "one model from LoRAs trained apart: MoLE's learned gates, or a merge; which of them is best",
        """llava-moe compose 'experts=[FOLDER,FOLDER]' [key=value ...]    MoLE: learned gates over the frozen LoRAs
llava-moe compose 'experts=[FOLDER,FOLDER]' method=linear|normalized_linear|svd|ties|dare_ties    a merge, by PEFT
llava-moe compose 'experts=[FOLDER,FOLDER]' pick=true  held-out loss of each expert, each merge and MoLE, by domain
llava-moe compose run=COMPOSITION 'mask=[1,0]' out=FOLDER  leave experts out for good, gates as they were learned

Experts are runs of llava-moe train adapter=lora, or PEFT LoRA folders, of one base; ranks and targets may differ.
Their projectors must be one: train them from one stage-1 run with init_from=RUN '~stage.learning_rates.projector', or
name the run whose projector to take with init_from=.

Gates: granularity=matrix|layer|block|network, balance_coef=0.5, temperature=1, mask=[1,0], exact=true.
Merges: weights=[1,1], density=0.5 (ties, dare_ties), rank (svd, ties, dare_ties).
All keys of llava-moe train hold: exp, scale=demo, model, data, train.max_steps, out=FOLDER, seed.""",
    ),
    "export": Command(
        "write a run as a Hugging Face model or PEFT folders, loaded back and compared",
        """llava-moe export run=FOLDER to=hf out=FOLDER      a merged LlavaForConditionalGeneration with its processor
llava-moe export run=FOLDER to=peft out=FOLDER    a PEFT LoRA folder, or one for each expert with the router beside

A mixture that depends on the input has no one set of weights. to=hf then needs static=uniform (each expert by 1/K) or
static=by_domain=NAME (each layer's mean mixture over that domain's held-out tokens), and prints what it costs.

Keys: dtype=fp32|bf16 of the weights written, split=val and limit=200 of what static= measures on, num_threads.""",
    ),
    "analyze": Command(
        "look into a trained run: which domains help or harm each other; alone: the instruments",
        """llava-moe analyze INSTRUMENT run=FOLDER [key=value ...]

  llava-moe analyze                                   the instruments, a line each
  llava-moe analyze interference run=FOLDER           whose gradient steps lower or raise whose loss, by layer and side
  llava-moe analyze routing run=FOLDER                which expert serves which domain, layer and kind of token
  torchrun --nproc-per-node=8 -m llava_moe analyze interference run=FOLDER

Writes FOLDER/analyze/INSTRUMENT.json, .csv, .svg and .html; the report links the page. Measured on records held out of
training, at the last checkpoint unless checkpoint=STEP says another. Stopped or killed, it goes on where it was.
llava-moe analyze INSTRUMENT --help tells more.""",
    ),
    "reproduce": Command(
        "draw a figure of a paper from runs of our own, published numbers beside ours; alone: the figures",
        """llava-moe reproduce paper=NAME figure=NUMBER|table=NUMBER [scale=demo|full] [key=value ...]

  llava-moe reproduce                                  every figure and table of the papers; which are drawn
  llava-moe reproduce paper=llava_mole figure=1        its runs on the embedded demo, and the page of what they show
  llava-moe reproduce paper=mixlora table=2            a table; figure=table2 is the same
  llava-moe reproduce paper=llava_mole figure=1 at_once=2        two runs at a time, a thread each
  llava-moe reproduce paper=llava_mole figure=1 scale=full commands=true     a command a run, for a batch system
  llava-moe plan paper=llava_mole figure=1 scale=full  GPU-hours and disk of all its runs

Runs that are there are not made again; killed and started again it goes on; a run that fails is told, the rest goes on.
Writes to runs/reproduce/PAPER-FIGURE-SCALE/: index.html, results.json, drawings, and in cells/ every run.
Keys: seeds=[0,1,2], at_once=1, only=RUN (and what it starts from), commands=true (print, make nothing),
samples=600 (of each source in an epoch, for a shorter try), more="WORD ..." (words of llava-moe train for every run),
cells=FOLDER (runs that figures share), out=FOLDER.""",
    ),
    "ls": Command(
        "list what there is to choose from: exp, model, data, adapter, recipe, benchmark, run",
        """llava-moe ls [exp|model|data|adapter|stage|parallel|recipe|benchmark|run] [--config-dir FOLDER]

What you wrote yourself stands behind what is shipped: yamls of sources in the current folder, which data=FILE.yaml
takes by their path, and those in the folders that --config-dir names (FOLDER/data/NAME.yaml, FOLDER/exp/NAME.yaml).

llava-moe ls run tells of each run below runs/ its adapter, its data, how far it is, its held-out loss and when it
was last written, the latest last. Deeper ones, as those of a figure, are counted by the folder that holds them.""",
    ),
    "help": Command(
        "tell what a key means, what it takes and its default; the keys of a section or a command",
        """llava-moe help [KEY|SECTION|COMMAND [KEY]]

  llava-moe help                        how to ask, and what there is
  llava-moe help train.warmup_ratio     a key: meaning, what it takes, default, which choices set it otherwise
  llava-moe help adapter                a section of the configuration of train: its keys, a line each
  llava-moe help data check             a command: the keys that it has beside those of train
  llava-moe help --markdown             all of them as a page, docs/configuration.md""",
    ),
    "completion": Command(
        "print what makes a shell complete commands, keys, names and files behind Tab",
        """llava-moe completion bash|zsh|fish

  source <(llava-moe completion bash)     in ~/.bashrc; zsh likewise, in ~/.zshrc
  llava-moe completion fish | source      in ~/.config/fish/config.fish

Offered are commands, keys, values of those that have few, names (those of your own behind --config-dir too), yamls of
sources, runs, files and folders.""",
    ),
    "doctor": Command(
        "tell what this machine has and lacks for training, each with its remedy",
        """llava-moe doctor [ranks=true [out=FOLDER]]

With ranks=true, started by a launcher as a training is, it compares all its processes: machines, GPUs, versions, code,
clocks, a folder that all must see (out=FOLDER, or where it is started), and times an all-reduce.
  torchrun --nproc-per-node=2 -m llava_moe doctor ranks=true out=runs""",
    ),
}

# The second word of llava-moe data.
DATA_COMMANDS = {
    "prepare": Command(
        "turn downloads into sharded Parquet with a manifest, in parallel; killed, it goes on where it was",
        """llava-moe data prepare recipe=NAME|[A,B]|FILE.py downloads=FOLDER [out=data] [key=value ...]

  llava-moe ls recipe                                             the recipes; each page says what to fetch and how
  llava-moe data prepare recipe=pathvqa downloads=downloads       downloads (or downloads/pathvqa) to data/pathvqa
  llava-moe data prepare 'recipe=[m3it,sharegpt4v_ft]' downloads=downloads model=vicuna_7b_clip336
  llava-moe data prepare recipe=pathvqa from=hub                  streamed from where it is published

Writes out/NAME/SPLIT-00000.parquet ... and manifest.json: counts against those published, statistics of tokens and
images, fingerprints. What cannot be read as a record goes to rejected.jsonl; all else is data check's to judge. Images
inside records are stored, image files stay where they are. Stopped or killed, it goes on where it was, to the same
bytes with any number of processes.

Keys: splits=[train], images=FOLDER, num_processes=N (default: every core), probe_images=true (the header of every
image file, not of a sample), model=NAME or model.path=FOLDER (whose tokenizer counts; model=demo: the embedded one),
restart=true (again, where raw files or choices have changed).""",
    ),
    "check": Command(
        "look at every record and image of a mixture: faults, duplicates, leaks; writes a list that train honours",
        """llava-moe data check [words of llava-moe train] [key=value ...]

  llava-moe data check                                            the stages of the embedded demo
  llava-moe data check exp=mix_general_doc_med 'against=[demo,data/textvqa_val]'
  llava-moe data check data=mix.yaml

Every record is judged by the functions that training judges it by, and every different image is opened once: missing
and damaged images, paths that leave their folder, turns, placeholders, length, duplicates by content, overlap with
evaluation sets, counts against the recipe, shards against their manifest.
Writes to checks/EXPERIMENT-HASH/: quarantine.jsonl, the list that llava-moe train data.quarantine=FILE honours;
check.html, with an example of each fault; check.json.

Keys: out=FOLDER, num_processes=N (default: every core), sample_images=N (open so many, drawn by seed),
against=[BENCHMARK,FILE,...] and against_images=FOLDER, duplicates=leave_out|keep, strict=true (exit with status 2 where
a record has a fault). Otherwise the status is 2 only where training would not begin even with the list.""",
    ),
    "stats": Command(
        "records, samples, tokens and shares by source and domain, as they will be trained",
        """llava-moe data stats [words of llava-moe train] [key=value ...]

  llava-moe data stats                                            the stages of the embedded demo
  llava-moe data stats exp=mix_general_doc_med 'domain_scale={medical: 2}'
  llava-moe data stats data=mix.yaml

By source, by domain and in all, counted from the very plan that training follows: records left out and cut, samples
and passes of an epoch, tokens (image, prompt, supervised), shares of samples, tokens and loss, lengths, rows a step and
how full they are. Numbers go to stats.json and, as a page, to stats.html in stats/EXPERIMENT-HASH/.

Keys: out=FOLDER, epochs=N (count the first N only), ranks=N (devices that the rows are dealt to).""",
    ),
    "preview": Command(
        "the first rows as they will be trained, supervised tokens coloured, images shown",
        """llava-moe data preview [words of llava-moe train] [key=value ...]

  llava-moe data preview                                          the first rows of both stages of the embedded demo
  llava-moe data preview data=mix.yaml rows=2 shown=2
  llava-moe data preview exp=mix_general_doc_med step=1000 | less -R

Each example of a packed row with its domain, source and id; what the model learns to write is coloured, or stands
between « and » where there are no colours. The page preview.html in stats/EXPERIMENT-HASH/ has every row, its pictures
made from the pixels that the batch holds, and every token's id, label and position.

Keys: rows=4 (of each stage), shown=1 (of them, in the terminal), epoch=0, step=0, ranks=1, out=FOLDER.""",
    ),
}

# The second word of llava-moe analyze.
ANALYZE_COMMANDS = {
    "interference": Command(
        "whose gradient steps lower or raise whose loss (MixLoRA, eq. 2-3), by layer, linear, A and B",
        """llava-moe analyze interference run=FOLDER [key=value ...]

  llava-moe analyze interference run=runs/...
  llava-moe analyze interference run=runs/... by=task samples=16 'exact=[all,side]'
  llava-moe analyze interference run=runs/... checkpoint=800 'exact=[]'     first order alone: gradients, no steps

Row i is affected, column j updates: above 0 a step on j helps i as its own would, below 0 it harms. First order from
the products of records' gradients; exact from the loss after a step of length step_size along a record's gradient.
Beside each the cosine, the ratio of means and the mean of ratios, and 95 % intervals by bootstrap over records.

Keys: by=domain|task, samples=32 (of each), split=NAME, checkpoint=last|best|STEP, exact=[all,side,linear,layer],
exact_samples=16, step_size, resamples=2000, projector=true, dtype=fp32, num_threads, seed, out=FOLDER.""",
    ),
    "transfer": Command(
        "train on one domain alone for some steps: whose held-out loss falls; do gradients foretell it",
        """llava-moe analyze transfer run=FOLDER [key=value ...]

  llava-moe analyze transfer run=runs/...
  llava-moe analyze transfer run=runs/... checkpoint=start steps=20 'seeds=[0,1,2]'
  torchrun --nproc-per-node=8 -m llava_moe analyze transfer run=FOLDER

Row i is affected, column j was trained on, from one start, by the run's own records, optimizer and rates: the fall of
i's held-out loss in nats, with 95 % intervals over records and seeds. Beside it Spearman's rank correlation with each
matrix of first-order interference on the same records.

Keys: steps=10 of each training, rate=1.0 times the run's, seeds=[0], samples=64 held-out records of each domain,
split=NAME, checkpoint=last|best|STEP|start, gradients=false (no correlation), resamples=2000, dtype=fp32, num_threads,
seed, out=FOLDER.""",
    ),
    "forgetting": Command(
        "what runs that were trained one after another still know: accuracy matrix, MFT, MFN, MAA, BWT",
        """llava-moe analyze forgetting 'runs=[A,B,C]' [key=value ...]

  llava-moe analyze forgetting 'runs=[runs/general,runs/documents,runs/medical]'
  llava-moe analyze forgetting 'runs=[runs/a,runs/b]' 'parts=[chartqa,pathvqa]'

Reads what llava-moe eval wrote into each run's eval/, and trains and asks nothing. Each run was started from the one
before (init_from=). Row: after which training; column: the score on what a run trained, by default the domain that is
new in its data. MFT: right after its own training; MFN: at the end; MAA: over the way; BWT: the change on earlier
parts, below 0 where they were forgotten. 95 % intervals by paired bootstrap over images; held-out losses beside it
where the runs measured them. Writes C/analyze/forgetting.json, .csv, .svg and .html.

Keys: benchmarks=[...], parts=[...] (one a run: demo.general, general or chartqa), measure=NAME, resamples=10000, seed,
out=FOLDER.""",
    ),
    "routing": Command(
        "which expert serves which domain, layer and kind of token, and what that says about the domain",
        """llava-moe analyze routing run=FOLDER [key=value ...]

  llava-moe analyze routing run=runs/...
  llava-moe analyze routing run=runs/... checkpoints=all         how routing moves from checkpoint to checkpoint
  llava-moe analyze routing run=runs/... samples=0 pictures=5    all held-out records; more pictures with their patches

Shares, entropy and dead experts by domain, layer, expert and image, prompt and answer tokens; the mutual information of
expert and domain with intervals over records and what chance gives; a linear probe of the domain. MixLoRA's factors and
MoLE's gates decide once a record and are counted so.

Keys: by=domain|task, samples=32 (of each), split=NAME, checkpoint=last|best|STEP, checkpoints=all|[STEP,...],
resamples=1000, dead_below=0.05 (of the even share), pictures=3, dtype=fp32, num_threads, seed, out=FOLDER.""",
    ),
}

SECOND_WORDS = {"data": DATA_COMMANDS, "analyze": ANALYZE_COMMANDS}
