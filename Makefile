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
DEVICES ?= auto
NODES ?= 1
STRATEGY ?= auto
PYTHON ?= python3
SECONDS_OF_SPEECH ?= 7

ROOT := checkpoints$(if $(RUN),/runs/$(RUN))
CORPUS := $(or $(DATA),$(ROOT)/demo-corpus)
BIN := .venv/bin
READY := .venv/ready
AUDIOLM := $(BIN)/audiolm
CHAIN := $(ROOT)/chain.json

# the codec is trained, or is a public one; that has one configuration for all presets
CODEC_STAGE := $(if $(CODEC),codec_pretrained,codec)
# the encoder is trained, or is a public one, of which the tokenizer takes layer LAYER; "mfcc" is none at all
ifeq ($(ENCODER),mfcc)
$(if $(LAYER),$(error ENCODER=mfcc has no layers: leave LAYER out))
encoder_options := --model.encoder.kind mfcc --model.encoder.layer null
else ifneq ($(ENCODER),)
$(if $(LAYER),,$(error ENCODER=$(ENCODER) needs LAYER=N, which of its layers to cluster))
encoder_options := --model.encoder.kind pretrained --model.encoder.name "$(ENCODER)" --model.encoder.layer $(LAYER)
else
encoder_options := $(if $(LAYER),--model.encoder.layer $(LAYER))
endif
# a stage's configurations: the paper's, then the preset's overlay
configs = stages/$(1).yaml $(if $(filter-out paper,$(PRESET)),$(if $(filter-out codec_pretrained,$(1)),stages/$(PRESET)/$(1).yaml))
lightning = $(BIN)/lightning $(1) $(patsubst %,-c %,$(call configs,$(2))) --root $(ROOT) \
	--trainer.devices $(DEVICES) --trainer.num_nodes $(NODES) --trainer.strategy $(STRATEGY)

.PHONY: help setup setup-evaluation check test test-long train-all chain corpus codec encoder tokenizer tokens semantic coarse fine generator samples report clean

help: ## this list
	@echo "make TARGET [KNOB=value …]"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 20
	@echo
	@echo "Knobs:"
	@echo "  DATA=FOLDER     Libri-Light tree, LibriSpeech tree or any folder of audio; default: the demo corpus, made here"
	@echo "  PRESET=demo     demo (minutes, 2 cores) | small (one 24-80 GB GPU) | paper | piano (paper size, 3 x 16384 codes)"
	@echo "  CODEC=NAME      a public codec instead of a trained one: name or folder of an EnCodec, DAC or Mimi"
	@echo "  ENCODER=NAME    a public encoder instead of a trained one, with LAYER: a HuBERT, WavLM, w2v-BERT 2.0; or mfcc"
	@echo "  LAYER=N         which layer of the encoder becomes units; of a trained one also by audiolm evaluate layers"
	@echo "  RUN=NAME        another chain, in checkpoints/runs/NAME"
	@echo "  DEVICES=auto NODES=1 STRATEGY=auto    processes per node, nodes, and auto | ddp | …"

# ---------------------------------------------------------------------------------------------------- set-up and checks

setup: $(READY) ## .venv with everything pyproject.toml names

# faiss-gpu where there is an NVIDIA GPU, faiss-cpu elsewhere
$(READY): pyproject.toml
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

test-long: $(READY) ## resume, faults and mutated files; takes long
	$(BIN)/pytest tests/long

# ---------------------------------------------------------------------------------------------------- the chain

train-all: report ## every stage, the generator, continuations and a report
	@echo; $(AUDIOLM) results --root $(ROOT); echo
	@echo "Listen:  $(ROOT)/report/index.html   (open it in a browser)"
	@echo "         $$(ls $(ROOT)/samples/*.wav | head -1)   and $$(ls $(ROOT)/samples/*.wav | wc -l) wav files in all"
	@echo "Speak:   $(BIN)/audiolm generate --generator $(ROOT)/generator --prompt some.wav --seconds 7 --out out/"

# Refuses another DATA, PRESET, CODEC or ENCODER in the same chain. Runs first, every time; a prerequisite by order only.
chain: $(READY)
	@$(AUDIOLM) chain --root $(ROOT) --data "$(DATA)" --preset $(PRESET) --codec "$(CODEC)" \
		--encoder "$(ENCODER)$(if $(and $(ENCODER),$(LAYER)), layer $(LAYER))"

corpus: $(ROOT)/manifest.jsonl ## the list of utterances            DATA -> manifest.jsonl
codec: $(ROOT)/codec/done.json ## SoundStream, or CODEC             audio -> codec/
encoder: $(ROOT)/encoder/done.json ## features, self-supervised         audio -> encoder/
tokenizer: $(ROOT)/tokenizer/done.json ## units: features, k-means         audio, encoder -> tokenizer/
tokens: $(ROOT)/tokens/sealed.json ## both token streams               audio, codec, tokenizer -> tokens/
semantic: $(ROOT)/semantic/done.json ## semantic LM                       tokens/ -> semantic/
coarse: $(ROOT)/coarse/done.json ## coarse acoustic LM                tokens/ -> coarse/
fine: $(ROOT)/fine/done.json ## fine acoustic LM                  tokens/ -> fine/
generator: $(ROOT)/generator/config.json ## one folder that speaks           all of the above -> generator/
samples: $(ROOT)/samples/samples.json ## continuations of unseen speakers  generator -> samples/
report: $(ROOT)/report/index.html ## one page to look at and listen    everything -> report/

$(ROOT)/demo-corpus/demo-corpus.json: | chain
	$(AUDIOLM) demo-corpus --out $(ROOT)/demo-corpus

$(ROOT)/manifest.jsonl: $(if $(DATA),,$(ROOT)/demo-corpus/demo-corpus.json) | chain
	$(AUDIOLM) prepare --data "$(CORPUS)" --root $(ROOT)

$(ROOT)/codec/done.json: $(ROOT)/manifest.jsonl lightning.yaml $(call configs,$(CODEC_STAGE)) | chain
	$(call lightning,fit,$(CODEC_STAGE)) $(if $(CODEC),--model.name "$(CODEC)") --ckpt_path last

$(ROOT)/encoder/done.json: $(ROOT)/manifest.jsonl lightning.yaml $(call configs,encoder) | chain
	$(call lightning,fit,encoder) --ckpt_path last

$(ROOT)/tokenizer/done.json: $(if $(ENCODER),$(ROOT)/manifest.jsonl,$(ROOT)/encoder/done.json) \
		$(wildcard $(ROOT)/encoder/selected.json) lightning.yaml $(call configs,tokenizer) | chain
	$(call lightning,fit,tokenizer) $(encoder_options)

$(ROOT)/tokens/sealed.json: $(ROOT)/codec/done.json $(ROOT)/tokenizer/done.json lightning.yaml $(call configs,tokenize) | chain
	$(call lightning,predict,tokenize) --return_predictions false
	@touch $@

$(ROOT)/semantic/done.json: $(ROOT)/tokens/sealed.json lightning.yaml $(call configs,semantic) | chain
	$(call lightning,fit,semantic) --ckpt_path last

$(ROOT)/coarse/done.json: $(ROOT)/tokens/sealed.json lightning.yaml $(call configs,coarse) | chain
	$(call lightning,fit,coarse) --ckpt_path last

$(ROOT)/fine/done.json: $(ROOT)/tokens/sealed.json lightning.yaml $(call configs,fine) | chain
	$(call lightning,fit,fine) --ckpt_path last

# piano has no fine stage: its coarse stage predicts all levels
$(ROOT)/generator/config.json: $(ROOT)/semantic/done.json $(ROOT)/coarse/done.json $(if $(filter piano,$(PRESET)),,$(ROOT)/fine/done.json) | chain
	$(AUDIOLM) compose --root $(ROOT)

$(ROOT)/samples/samples.json: $(ROOT)/generator/config.json | chain
	$(AUDIOLM) samples --root $(ROOT) --seconds $(SECONDS_OF_SPEECH)

$(ROOT)/report/index.html: $(ROOT)/samples/samples.json | chain
	$(AUDIOLM) report --root $(ROOT)

clean: ## remove the chain of RUN (asks first)
	@read -r -p "Remove $(ROOT) and everything that was trained in it? [y/N] " answer && [ "$$answer" = y ] && \
		rm -rf $(ROOT)/{demo-corpus,codec,encoder,tokenizer,tokens,semantic,coarse,fine,generator,samples,generate,report,evaluation} \
		$(ROOT)/{manifest.jsonl,rejected.jsonl,chain.json}
