# AudioLM, stage by stage. `make train-all` does everything; `make help` lists the targets and the knobs.
.DEFAULT_GOAL := help
SHELL := bash
.DELETE_ON_ERROR:

DATA ?=
PRESET ?= demo
CODEC ?=
ENCODER ?=
LAYER ?=
RUN ?=
DEVICES ?=
NODES ?=
STRATEGY ?=
PYTHON ?= python3
SECONDS_OF_SPEECH ?= 7
ITEMS ?=
AUDIO ?=
ZEROSPEECH ?=
TRANSCRIPTS ?=
EVALUATE ?=

$(if $(word 2,$(RUN)),$(error RUN="$(RUN)" is two words: a run's name has no spaces))
ROOT := checkpoints$(if $(RUN),/runs/$(RUN))
CORPUS := $(or $(DATA),$(ROOT)/demo-corpus)
BIN := .venv/bin
READY := $(if $(filter .venv/bin,$(BIN)),.venv/ready)
AUDIOLM := $(BIN)/audiolm
# how a stage's processes are started, before the command itself; stages/slurm.sbatch sets it to srun
LAUNCH :=
# of SLURM=1; read from the command line only, because other tools use such names in the environment
SLURM :=
PARTITION :=
TIME :=
ACCOUNT :=
GPUS :=
CPUS :=
SBATCH :=

# the codec is trained, or is a public one; that has one configuration for all presets
CODEC_STAGE := $(if $(CODEC),codec_pretrained,codec)
# the encoder is trained, or is a public one, of which the tokenizer takes layer LAYER; "mfcc" is none at all
ifeq ($(ENCODER),mfcc)
$(if $(LAYER),$(error ENCODER=mfcc has no layers: leave LAYER out))
# as a whole: the command line takes no null for a single field of it
encoder_options := --model.encoder '{"kind": "mfcc", "name": null, "layer": null}'
else ifneq ($(ENCODER),)
$(if $(LAYER),,$(error ENCODER=$(ENCODER) needs LAYER=N, which of its layers to cluster))
encoder_options := --model.encoder.kind pretrained --model.encoder.name "$(ENCODER)" --model.encoder.layer $(LAYER)
else
encoder_options := $(if $(LAYER),--model.encoder.layer $(LAYER))
endif
# a stage's configurations: the paper's, then the preset's overlay; the evaluation's stages are the same for speech and piano
preset_of = $(if $(filter generate,$(1)),paper,$(if $(filter $(EVALUATION_STAGES),$(1)),$(patsubst piano,paper,$(PRESET:piano-demo=demo)),$(PRESET)))
configs = stages/$(1).yaml $(if $(filter-out paper,$(preset_of)),$(if $(filter-out codec_pretrained,$(1)),stages/$(preset_of)/$(1).yaml))
lightning = $(LAUNCH) $(BIN)/lightning $(1) $(patsubst %,-c %,$(call configs,$(2))) --root $(ROOT) \
	$(if $(DEVICES),--trainer.devices $(DEVICES)) $(if $(NODES),--trainer.num_nodes $(NODES)) \
	$(if $(STRATEGY),--trainer.strategy $(STRATEGY))

# the stages in order; what each makes, of what earlier stages, and the name of its configurations if it is Lightning's
STAGES := corpus codec encoder tokenizer tokens semantic coarse fine generator samples report
# the paper's baseline without units, which is no part of train-all
EXTRA_STAGES := acoustic generator-acoustic
# what the paper's tables need besides; recognisers need transcripts, which the demo corpus has
EVALUATION_STAGES := residual_tokenizer detokenizer_units detokenizer_residual detokenizer_codes detokenizer_all_codes \
	asr detector speaker
.PHONY: evaluation-stages $(EVALUATION_STAGES)
$(foreach stage,$(EVALUATION_STAGES),$(eval made.$(stage) := $(ROOT)/$(stage)/done.json))
needs.residual_tokenizer := tokenizer
needs.detokenizer_units := tokenizer
needs.detokenizer_residual := residual_tokenizer
needs.detokenizer_codes := codec
needs.detokenizer_all_codes := codec
needs.asr := $(if $(ENCODER),corpus,encoder)
needs.detector := generator
needs.speaker := corpus
needs.evaluation-stages := $(filter-out $(if $(DATA),$(if $(TRANSCRIPTS),,asr)),$(EVALUATION_STAGES)) $(EXTRA_STAGES)
config.evaluation-stages := generate
made.corpus := $(ROOT)/manifest.jsonl
made.codec := $(ROOT)/codec/done.json
made.encoder := $(ROOT)/encoder/done.json
made.tokenizer := $(ROOT)/tokenizer/done.json
made.tokens := $(ROOT)/tokens/sealed.json
made.semantic := $(ROOT)/semantic/done.json
made.coarse := $(ROOT)/coarse/done.json
made.fine := $(ROOT)/fine/done.json
made.generator := $(ROOT)/generator/config.json
made.samples := $(ROOT)/samples/samples.json
made.report := $(ROOT)/report/index.html
made.acoustic := $(ROOT)/acoustic/done.json
made.generator-acoustic := $(ROOT)/generator-acoustic/config.json
needs.codec := corpus
needs.encoder := corpus
needs.tokenizer := $(if $(ENCODER),corpus,encoder)
needs.tokens := codec tokenizer
needs.semantic := tokens
needs.coarse := tokens
needs.fine := tokens
needs.acoustic := tokens
# piano has no fine stage: its coarse stage predicts all levels
fine := $(if $(filter piano%,$(PRESET)),,fine)
needs.generator := semantic coarse $(fine)
needs.generator-acoustic := acoustic $(fine)
needs.samples := generator
needs.report := samples
config.codec := $(CODEC_STAGE)
config.tokens := tokenize
$(foreach stage,encoder tokenizer semantic coarse fine acoustic $(EVALUATION_STAGES),$(eval config.$(stage) := $(stage)))
# the prerequisites of a stage's result
needed = $(foreach stage,$(needs.$(1)),$(made.$(stage))) $(if $(config.$(1)),lightning.yaml $(call configs,$(config.$(1))))

.PHONY: help setup setup-evaluation check test test-long test-cluster train-all evaluation chain graph status $(STAGES) $(EXTRA_STAGES) clean

help: ## this list
	@echo "make TARGET [KNOB=value …]"; echo
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z_-]+):[^#]*## /  \1\t/' | expand -t 25
	@echo
	@echo "Knobs:"
	@echo "  DATA=FOLDER     Libri-Light tree, LibriSpeech tree or any folder of audio; default: the demo corpus, made here"
	@echo "  PRESET=demo     demo (minutes, 2 cores) | small (one 24-80 GB GPU) | paper | piano (paper size, 3 x 16384 codes)"
	@echo "                  | piano-demo (3 x 1024 codes, minutes, 2 cores)"
	@echo "  CODEC=NAME      a public codec instead of a trained one: name or folder of an EnCodec, DAC or Mimi"
	@echo "  ENCODER=NAME    a public encoder instead of a trained one, with LAYER: a HuBERT, WavLM, w2v-BERT 2.0; or mfcc"
	@echo "  LAYER=N         which layer of the encoder becomes units; of a trained one also by audiolm evaluate layers"
	@echo "  RUN=NAME        another chain, in checkpoints/runs/NAME"
	@echo "  DEVICES=N NODES=N STRATEGY=NAME    processes per node, nodes, and auto | ddp | fsdp; default: what the stage's YAML says"
	@echo "  ITEMS=FILE AUDIO=FOLDER ZEROSPEECH=FOLDER TRANSCRIPTS=FOLDER    benchmark data of make evaluation; EVALUATE=\"…\" other options"
	@echo "  DETECTOR_PROMPTS=N    recordings that the detector learns from at most (2000; demo 200)"
	@echo "  SLURM=1         submit the stages as jobs instead of running them here; with it:"
	@echo "  PARTITION= TIME= ACCOUNT=    as sbatch takes them; SBATCH=\"…\" for whatever else it takes"
	@echo "  GPUS=N CPUS=N   GPUs per node (default: one a process if the partition has any), CPUs per process"

# ---------------------------------------------------------------------------------------------------- set-up and checks

setup: $(READY) ## .venv with everything pyproject.toml names

# faiss-gpu where there is an NVIDIA GPU, faiss-cpu elsewhere
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[$$(command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu),dev]"
	$(BIN)/python -m audiolm.install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[evaluation]" >.venv/evaluation.log 2>&1 || \
		echo "Not installed: the packages of ViSQOL, PESQ and STOI (audiolm evaluate codec); they need a C compiler. Everything" \
		"else works. Later: make setup-evaluation. (The reason is in .venv/evaluation.log)"
	@touch $@

setup-evaluation: $(READY) ## ViSQOL, PESQ, STOI, if setup could not; needs a C compiler
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[evaluation]"

check: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) ## the tests (no network, no GPU, no data)
	$(BIN)/pytest

test-long: $(READY) ## the long ones: kills at every moment, full disks, vanished files (root for the disks)
	$(BIN)/pytest tests/long

test-cluster: $(READY) ## the tests on a real SLURM cluster of two nodes, made here: root, and installs SLURM if it is missing
	$(BIN)/pytest tests/cluster

# ---------------------------------------------------------------------------------------------------- the chain

status: $(READY) ## the chain: stage, state, job, step, loss, time left, last checkpoint, GPU hours
	@$(AUDIOLM) status --root $(ROOT)

# A stage a line, for `audiolm submit`: its name, what it waits for, its configurations.
graph:
	@: $(foreach stage,$(STAGES) $(EXTRA_STAGES) $(EVALUATION_STAGES) evaluation-stages,$(info $(stage)|$(needs.$(stage))|$(if $(config.$(stage)),lightning.yaml $(call configs,$(config.$(stage))))))

ifneq ($(SLURM),)
$(if $(filter-out 1,$(SLURM)),$(error SLURM=$(SLURM) is not known: SLURM=1 submits jobs, without it everything runs here))
KNOBS := DATA PRESET CODEC ENCODER LAYER RUN DEVICES NODES STRATEGY SECONDS_OF_SPEECH TRANSCRIPTS DETECTOR_PROMPTS BIN

# Every stage that is not up to date becomes a job that runs `make STAGE` with the same knobs.
train-all $(STAGES) $(EXTRA_STAGES) $(EVALUATION_STAGES) evaluation-stages: chain
	@$(AUDIOLM) submit $(@:train-all=report) --root $(ROOT) --partition "$(PARTITION)" --time "$(TIME)" --account "$(ACCOUNT)" \
		--gpus "$(GPUS)" --cpus "$(CPUS)" --sbatch="$(SBATCH)" --knobs $(foreach knob,$(KNOBS),$(if $($(knob)),"$(knob)=$($(knob))"))

evaluation:
	@echo "make $@ submits no jobs: run it without SLURM=1, for example as one job of your own" >&2; exit 1
else
train-all: report ## every stage, the generator, continuations and a report
	@echo; $(AUDIOLM) results --root $(ROOT); echo
	@echo "Listen:  $(ROOT)/report/index.html   (open it in a browser)"
	@echo "         $$(ls $(ROOT)/samples/*.wav | head -1)   and $$(ls $(ROOT)/samples/*.wav | wc -l) wav files in all"
	@echo "Speak:   $(BIN)/audiolm generate --generator $(ROOT)/generator --prompt some.wav --seconds 7 --out out/"

corpus: $(made.corpus) ## the list of utterances            DATA -> manifest.jsonl
codec: $(made.codec) ## SoundStream, or CODEC             audio -> codec/
encoder: $(made.encoder) ## features, self-supervised         audio -> encoder/
tokenizer: $(made.tokenizer) ## units: features, k-means         audio, encoder -> tokenizer/
tokens: $(made.tokens) ## both token streams               audio, codec, tokenizer -> tokens/
semantic: $(made.semantic) ## semantic LM                       tokens/ -> semantic/
coarse: $(made.coarse) ## coarse acoustic LM                tokens/ -> coarse/
fine: $(made.fine) ## fine acoustic LM                  tokens/ -> fine/
generator: $(made.generator) ## one folder that speaks           all of the above -> generator/
samples: $(made.samples) ## continuations of unseen speakers  generator -> samples/
report: $(made.report) ## one page to look at and listen    everything -> report/
acoustic: $(made.acoustic) ## baseline: codes without units     tokens/ -> acoustic/
generator-acoustic: $(made.generator-acoustic) ## one folder that speaks without units -> generator-acoustic/

# what the detector learns from: so many recordings of train speakers at most
DETECTOR_PROMPTS ?= $(if $(filter %demo,$(PRESET)),200,2000)
AUDIO_TRAIN := $(ROOT)/evaluation/audio-train
residual_tokenizer: $(made.residual_tokenizer) ## Table I: the units' layer in 24 codebooks
detokenizer_units: $(made.detokenizer_units) ## Table I: decoder from units
detokenizer_residual: $(made.detokenizer_residual) ## Table I: decoder from residual units
detokenizer_codes: $(made.detokenizer_codes) ## Table I: decoder from coarse codes
detokenizer_all_codes: $(made.detokenizer_all_codes) ## Table I: decoder from codes of all levels
asr: $(made.asr) ## Table II: a recogniser, of transcribed speech
speaker: $(made.speaker) ## Table III: who speaks
detector: $(ROOT)/generator/detector.safetensors ## whether a machine speaks: continuations of train speakers -> generator/

evaluation-stages: $(needs.evaluation-stages) $(ROOT)/generate/generated.jsonl $(ROOT)/generate-acoustic/generated.jsonl ## everything that the tables need besides train-all; -k goes on past what your data do not allow

$(foreach stage,$(EVALUATION_STAGES),$(eval $(made.$(stage)): $(call needed,$(stage))))
$(made.residual_tokenizer): | chain
	$(call lightning,fit,residual_tokenizer)

# the demo's classifier knows eight voices more, which nothing else learns from: Table III asks about them
$(made.speaker): $(if $(DATA),,$(ROOT)/demo-phones/demo-phones.json)
speaker_options = $(if $(DATA),,--model.data "[$(ROOT)/manifest.jsonl, $(ROOT)/demo-phones/audio]")
$(ROOT)/demo-phones/demo-phones.json: | chain
	$(AUDIOLM) demo-phones --out $(@D)

$(made.detector): $(AUDIO_TRAIN)/reconstruction/generated.jsonl $(AUDIO_TRAIN)/continuation-0/generated.jsonl

$(foreach stage,$(filter-out residual_tokenizer,$(EVALUATION_STAGES)),$(made.$(stage))): $(ROOT)/%/done.json: | chain
	$(call lightning,fit,$*) $($*_options) --ckpt_path last

# on the chain's encoder; a public one stays as it is
asr_options = $(if $(TRANSCRIPTS),--data.transcripts "$(TRANSCRIPTS)") $(if $(ENCODER),$(encoder_options) --model.fine_tune false)

generate = $(LAUNCH) $(BIN)/lightning predict -c stages/generate.yaml --root $(ROOT) --model.out $(@D) $(1)
$(AUDIO_TRAIN)/reconstruction/generated.jsonl: $(made.generator) | chain
	$(call generate,--data.split train --model.mode reconstruct --model.limit $(DETECTOR_PROMPTS))
$(AUDIO_TRAIN)/continuation-0/generated.jsonl: $(made.generator) | chain
	$(call generate,--data.split train --model.limit $(DETECTOR_PROMPTS))
$(ROOT)/generator/detector.safetensors: $(made.detector)
	$(AUDIOLM) compose --root $(ROOT) --detector
# the paper's prompts: 3 s of speech, which is the configuration's, and 4 s of piano
prompts := $(if $(filter piano%,$(PRESET)),--model.prompt_seconds 4)
$(ROOT)/generate/generated.jsonl: $(made.generator) | chain
	$(call generate,$(prompts))
$(ROOT)/generate-acoustic/generated.jsonl: $(made.generator-acoustic) | chain
	$(call generate,$(prompts) --model.generator $(ROOT)/generator-acoustic)

evaluation: report ## the paper's tables and figures, as far as the data at hand allow -> report/paper.html
	$(AUDIOLM) evaluate paper --root $(ROOT) $(if $(ITEMS),--items "$(ITEMS)") $(if $(AUDIO),--audio "$(AUDIO)") \
		$(if $(ZEROSPEECH),--zerospeech "$(ZEROSPEECH)") $(if $(TRANSCRIPTS),--transcripts "$(TRANSCRIPTS)") $(EVALUATE)
endif

# Refuses another DATA, PRESET, CODEC or ENCODER in the same chain. Runs first, every time; a prerequisite by order only.
chain: $(READY)
	@$(AUDIOLM) chain --root $(ROOT) --data "$(DATA)" --preset $(PRESET) --codec "$(CODEC)" \
		--encoder "$(ENCODER)$(if $(and $(ENCODER),$(LAYER)), layer $(LAYER))"

$(ROOT)/demo-corpus/demo-corpus.json: | chain
	$(AUDIOLM) demo-corpus --out $(ROOT)/demo-corpus

$(made.corpus): $(if $(DATA),,$(ROOT)/demo-corpus/demo-corpus.json) | chain
	$(AUDIOLM) prepare --data "$(CORPUS)" --root $(ROOT)

$(made.codec): $(call needed,codec) | chain
	$(call lightning,fit,$(CODEC_STAGE)) $(if $(CODEC),--model.name "$(CODEC)") --ckpt_path last

$(made.encoder): $(call needed,encoder) | chain
	$(call lightning,fit,encoder) --ckpt_path last

$(made.tokenizer): $(call needed,tokenizer) $(wildcard $(ROOT)/encoder/selected.json) | chain
	$(call lightning,fit,tokenizer) $(encoder_options)

$(made.tokens): $(call needed,tokens) | chain
	$(call lightning,predict,tokenize) --return_predictions false
	@touch $@

$(made.semantic): $(call needed,semantic) | chain
	$(call lightning,fit,semantic) --ckpt_path last

$(made.coarse): $(call needed,coarse) | chain
	$(call lightning,fit,coarse) --ckpt_path last

$(made.fine): $(call needed,fine) | chain
	$(call lightning,fit,fine) --ckpt_path last

$(made.generator): $(call needed,generator) | chain
	$(AUDIOLM) compose --root $(ROOT)

$(made.acoustic): $(call needed,acoustic) | chain
	$(call lightning,fit,acoustic) --ckpt_path last

$(made.generator-acoustic): $(call needed,generator-acoustic) | chain
	$(AUDIOLM) compose --root $(ROOT) --acoustic-only

$(made.samples): $(call needed,samples) | chain
	$(AUDIOLM) samples --root $(ROOT) --seconds $(SECONDS_OF_SPEECH)

$(made.report): $(call needed,report) $(wildcard $(made.acoustic)) | chain
	$(AUDIOLM) report --root $(ROOT)

clean: ## remove the chain of RUN (asks first)
	@read -r -p "Remove $(ROOT) and everything that was trained in it? [y/N] " answer && [ "$$answer" = y ] && \
		rm -rf $(ROOT)/{demo-corpus,demo-zerospeech,demo-phones,codec,encoder,tokenizer,residual_tokenizer,detokenizer_*,tokens,semantic,coarse,fine,generator,samples,generate,report,evaluation,slurm,acoustic,generator-acoustic,generate-acoustic,asr,speaker,detector} \
		$(ROOT)/{manifest.jsonl,rejected.jsonl,chain.json,slurm.json}
