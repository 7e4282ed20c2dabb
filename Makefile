# Two commands matter: `make run` and `make test`. Everything they do stands in dev/, readable on its own.

.PHONY: help run test booted demo lint
.NOTPARALLEL:

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

run: ## Install what is missing, build, and run the suite until Ctrl-C drains it
	@exec dev/run

test: ## Run every test, with Redis and PostgreSQL of their own
	@exec dev/test

booted: ## As root: boot a Debian in a container, install the units there, and test them
	@exec dev/booted

demo: ## Against a running suite: one command, one push, one revocation, one audit verification
	@exec dev/demo

lint: ## Check format, lints and the dependency rules
	@exec dev/lint
