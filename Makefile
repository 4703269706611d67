# What a person types: make demo, make test, make install. README.md tells more.
#
# The build honours CC, CFLAGS (for the C programs of demo and soak), LDFLAGS, cargo's variables, as
# CARGO_TARGET_DIR and CARGO_BUILD_TARGET, and for `install` PREFIX, LIBDIR, BINDIR, DATADIR,
# GDB_AUTO_LOAD and DESTDIR. With DEBUG=1 the library has line tables, and gdb shows its source lines;
# with DEBUG=packaged it has its types as well, the command has line tables, and no path tells where
# they were built.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
BINDIR  ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
# Where gdb looks for the scripts of libraries in the system's folders.
GDB_AUTO_LOAD ?= $(if $(filter /usr /usr/local,$(PREFIX)),/usr/share,$(DATADIR))/gdb/auto-load
CARGO   ?= cargo
# For the programs of the tests, which run here. Asked for alike, they share what they are built from.
HERE    := env -u CARGO_BUILD_TARGET $(CARGO)
OF_TESTS := --quiet --profile trials -p ctests
CC      ?= cc
OBJCOPY ?= objcopy
INSTALL ?= install

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
HAS_CARGO := $(shell command -v $(firstword $(CARGO)))
# Cargo's own answer, as a configuration file can set it too.
TARGET  := $(or $(if $(HAS_CARGO),$(shell $(CARGO) metadata --no-deps --format-version 1 \
               | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')),$(CARGO_TARGET_DIR),$(CURDIR)/target)
# Root may have no cargo, or another: `sudo make install` installs what its user has made before.
BUILDS  := $(if $(SUDO_USER),,$(HAS_CARGO))
$(if $(word 2,$(TARGET)),$(error make can't build in a folder with a space in its name: $(TARGET)))
# Cargo has a folder for each target that it is told.
FOLDER  := $(TARGET)$(if $(CARGO_BUILD_TARGET),/$(CARGO_BUILD_TARGET))
RELEASE := $(FOLDER)/release
SHARED  := $(RELEASE)/librsasync.so
STATIC  := $(FOLDER)/static/librsasync.a
COMMAND := $(RELEASE)/rsasync
# What tells about the library: its man pages, and which crates are in it.
PAPERS  := $(TARGET)/papers
# What the command writes about itself: man pages, completions of shells.
OF_COMMAND := $(TARGET)/command-papers
# Man pages have the date of SOURCE_DATE_EPOCH, which packagers set, or none: the same sources give the
# same pages.
DATE     = $(if $(SOURCE_DATE_EPOCH),$(shell date --utc --date=@$(SOURCE_DATE_EPOCH) +%F))
PACKAGES := $(TARGET)/packages
DEMO    := $(TARGET)/demo
SOAK    := $(TARGET)/soak

ifneq ($(DEBUG),)
export CARGO_PROFILE_RELEASE_DEBUG := line-tables-only
endif
ifeq ($(DEBUG),packaged)
export CARGO_PROFILE_RELEASE_DEBUG := full
export CARGO_PROFILE_COMMAND_DEBUG := line-tables-only
export CARGO_PROFILE_COMMAND_STRIP := none
export RUSTFLAGS += --remap-path-prefix=$(CURDIR)=/usr/src/rsasync \
    --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/usr/share/cargo
endif

# rustc takes one word for its linker. A compiler cache does not link.
LINKER := $(filter-out ccache distcc sccache,$(CC))
LINK    := -C linker=$(firstword $(LINKER)) \
    $(patsubst %,-C link-arg=%,$(wordlist 2,$(words $(LINKER)),$(LINKER)) $(LDFLAGS))

# Where CMake finds the headers: from LIBDIR up to PREFIX, so that the tree may be moved.
HEADERS := $(if $(filter $(PREFIX)/%,$(LIBDIR)),$(subst $() ,,$(patsubst %,../,$(subst \
    /, ,$(LIBDIR:$(PREFIX)/%=%)))),$(PREFIX)/)include/rsasync
# Puts the version and the places into a file that tells other programs of them.
FILL_IN = sed 's|@VERSION@|$(VERSION)|g; s|@MAJOR@|$(MAJOR)|g; s|@PREFIX@|$(PREFIX)|g; \
    s|@LIBDIR@|$(LIBDIR)|g; s|@HEADERS@|$(HEADERS)|g'

.PHONY: all library command papers demo test bench fuzz soak matrix platforms packages depth servers \
    install install-library install-command deb rpm sources headers clean

all: library $(STATIC) command papers

library:
	$(CARGO) rustc --release --quiet -p rsasync --lib -- $(LINK)

# It stands beside the library, where `rsasync run` finds that.
command:
	$(CARGO) rustc --profile command --quiet -p rsasync-command -- $(LINK)
	@rm -rf $(OF_COMMAND)
	@mkdir -p $(RELEASE) $(OF_COMMAND)
	ln -f $(FOLDER)/command/rsasync $(COMMAND)
	$(COMMAND) generate $(OF_COMMAND) "$(DATE)"

# From the headers, README.md and Cargo.lock.
papers:
	@rm -rf $(PAPERS)
	$(HERE) run --quiet -p rsasync-papers -- $(PAPERS) "$(DATE)" $(CARGO_BUILD_TARGET)

# One object, in which only the C functions are global: a program may have a Boost.Context or
# a Rust library of its own, and the linker takes all of this one or nothing. The compiler's
# intermediate code in Rust's objects is removed, as it confuses the plug-ins of some linkers.
$(STATIC): library
	@mkdir -p $(@D)
	$(LD) -r -u ASYNC_start_job $(RELEASE)/librsasync.a -o $(@D)/rsasync.o
	$(OBJCOPY) --strip-debug --remove-section='.llvm*' --wildcard \
	    --keep-global-symbol='ASYNC_*' --keep-global-symbol='RSASYNC_*' \
	    --keep-global-symbol=_.stapsdt.base $(@D)/rsasync.o
	rm -f $@
	$(AR) rcs $@ $(@D)/rsasync.o

# Runs an example on the library, and then the installed openssl, unchanged, with the library
# preloaded.
demo: library
	@mkdir -p $(DEMO)
	@ln -sf $(SHARED) $(DEMO)/librsasync.so.$(MAJOR)
	$(CC) $(CFLAGS) -pthread -Iinclude examples/pipe.c -o $(DEMO)/pipe $(LDFLAGS) \
	    -L$(RELEASE) -lrsasync -Wl,-rpath,$(DEMO)
	$(DEMO)/pipe
	@if command -v openssl > /dev/null; then set -x; \
	    RSASYNC_STATS=1 LD_PRELOAD=$(SHARED) \
	        openssl speed -seconds 1 -bytes 1024 -async_jobs 8 -evp sha256; \
	else echo 'no openssl command here: nothing to preload into'; fi

# All tests, or those that FLAGS choose: FLAGS=NAME runs the tests whose names contain NAME;
# --list, --exact and --skip NAME may stand there too. A test that fails shows the line that runs
# it by hand; with `gdb --args` before the program, and DEBUG=1 here, gdb shows the library's source.
# What the tests need beyond cargo, make and a C compiler is in ctests/needs.
test:
	@sh ctests/needs
	$(CARGO) test $(OF_TESTS) -- $(FLAGS)

# What each call costs, of rsasync and of libcrypto in turn, and what whole programs see of it; plots
# and raw numbers go to target/bench. FLAGS go to the benchmark: --quick, and words of the rows to
# measure.
bench: library
	@sh ctests/needs
	CARGO_PROFILE_RELEASE_DEBUG=line-tables-only $(CARGO) rustc --release --quiet \
	    --target-dir $(TARGET)/lines -p rsasync --lib -- $(LINK)
	$(CARGO) build --release --quiet -p ctests --bin bench
	$(RELEASE)/bench --rsasync $(SHARED) --with-lines $(TARGET)/lines/release/librsasync.so $(FLAGS)

# Random use of the whole interface in eight threads, for SECONDS (60 by default).
soak: library
	@sh ctests/needs
	@mkdir -p $(SOAK)
	@ln -sf $(SHARED) $(SOAK)/librsasync.so.$(MAJOR)
	$(CC) -std=gnu11 -g -O1 $(CFLAGS) -pthread -DWITH_LIBCRYPTO -Iinclude -Ictests/include \
	    ctests/programs/soak.c -o $(SOAK)/soak $(LDFLAGS) -L$(RELEASE) -lrsasync -lcrypto \
	    -Wl,-rpath,$(SOAK)
	SECONDS=$(or $(SECONDS),60) $(SOAK)/soak soak

# Random programs on rsasync and on libcrypto, until stopped or for SECONDS; FLAGS go to the
# fuzzer, whose --help lists them.
fuzz: library
	@sh ctests/needs
	$(CARGO) run $(OF_TESTS) --bin fuzz -- --rsasync $(SHARED) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(FLAGS)

# The checks on OpenSSL 1.1.1, the system's and 4.0, or those whose names contain FLAGS: a table,
# versions across, checks down. The first run builds 1.1.1 and 4.0, which takes some minutes.
matrix:
	@sh ctests/needs
	$(HERE) build $(OF_TESTS) --bins
	$(TARGET)/trials/matrix $(FLAGS)

# The checks on musl, on 64-bit ARM through qemu, and with pages of 64 KiB: a table, platforms across,
# checks down. FLAGS go to the program: --short, and a word of the checks' names. The first run takes
# a compiler from Debian (170 MB); on x86-64 only.
platforms:
	@sh ctests/platforms/prepare $(TARGET)/platforms
	$(HERE) build $(OF_TESTS) --bin platforms
	$(TARGET)/trials/platforms $(FLAGS)

# Debian and RPM packages, built without a network, linted, and installed, used, upgraded and removed in
# a clean system. FLAGS go to the program: --short, and a word of the checks' names. As root on Debian.
packages:
	@sh ctests/packages/prepare $(PACKAGES) $(filter --short,$(FLAGS))
	$(HERE) build $(OF_TESTS) --bin packages
	$(TARGET)/trials/packages $(FLAGS)

# How deep OpenSSL goes on a job's stack, by version and operation. The first run builds OpenSSL, as
# for `make matrix`.
depth:
	@sh ctests/needs
	$(HERE) build $(OF_TESTS) --bin depth
	$(TARGET)/trials/depth

# HAProxy, Traffic Server, nginx and openssl s_server under load, on rsasync and on libcrypto; a table
# goes to target/servers. FLAGS go to the program: --short, and a word of the checks' names.
servers:
	@sh ctests/needs
	$(HERE) build $(OF_TESTS) --bin servers
	$(TARGET)/trials/servers $(FLAGS)

install: install-library install-command

install-library: $(if $(BUILDS),library $(STATIC) papers)
	@test -e $(SHARED) || { echo 'there is no $(SHARED) to install: run make before' >&2; exit 1; }
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(LIBDIR)/cmake/rsasync \
	    $(DESTDIR)$(DATADIR)/man/man3 $(DESTDIR)$(DATADIR)/man/man7 $(DESTDIR)$(DATADIR)/doc/rsasync \
	    $(DESTDIR)$(PREFIX)/include/rsasync/openssl \
	    $(DESTDIR)$(PREFIX)/include/rsasync/standalone/openssl
	$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(LIBDIR)/librsasync.so.$(VERSION)
	ln -sf librsasync.so.$(VERSION) $(DESTDIR)$(LIBDIR)/librsasync.so.$(MAJOR)
	ln -sf librsasync.so.$(MAJOR) $(DESTDIR)$(LIBDIR)/librsasync.so
	$(INSTALL) -m 644 $(STATIC) $(DESTDIR)$(LIBDIR)/librsasync.a
	$(INSTALL) -m 644 include/rsasync.h $(DESTDIR)$(PREFIX)/include/rsasync/
	$(INSTALL) -m 644 include/openssl/async.h include/openssl/asyncerr.h \
	    $(DESTDIR)$(PREFIX)/include/rsasync/openssl/
	$(INSTALL) -m 644 include/standalone/openssl/crypto.h \
	    $(DESTDIR)$(PREFIX)/include/rsasync/standalone/openssl/
	$(FILL_IN) src/packaging/rsasync.pc > $(DESTDIR)$(LIBDIR)/pkgconfig/rsasync.pc
	for file in rsasync-config.cmake rsasync-config-version.cmake; do \
	    $(FILL_IN) src/packaging/$$file > $(DESTDIR)$(LIBDIR)/cmake/rsasync/$$file || exit; done
	$(INSTALL) -m 644 $(PAPERS)/*.3rsasync $(DESTDIR)$(DATADIR)/man/man3/
	$(INSTALL) -m 644 $(PAPERS)/rsasync.7 $(DESTDIR)$(DATADIR)/man/man7/
	$(INSTALL) -m 644 $(PAPERS)/librsasync.cdx.json $(DESTDIR)$(DATADIR)/doc/rsasync/

install-command: $(if $(BUILDS),command papers)
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(DATADIR)/man/man1 $(DESTDIR)$(DATADIR)/doc/rsasync \
	    $(DESTDIR)$(DATADIR)/bash-completion/completions \
	    $(DESTDIR)$(DATADIR)/zsh/site-functions $(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	$(INSTALL) -m 755 $(COMMAND) $(DESTDIR)$(BINDIR)/
	$(INSTALL) -m 644 $(OF_COMMAND)/*.1 $(DESTDIR)$(DATADIR)/man/man1/
	$(INSTALL) -m 644 $(PAPERS)/rsasync.cdx.json $(DESTDIR)$(DATADIR)/doc/rsasync/
	$(INSTALL) -m 644 $(OF_COMMAND)/rsasync.bash \
	    $(DESTDIR)$(DATADIR)/bash-completion/completions/rsasync
	$(INSTALL) -m 644 $(OF_COMMAND)/_rsasync $(DESTDIR)$(DATADIR)/zsh/site-functions/
	$(INSTALL) -m 644 $(OF_COMMAND)/rsasync.fish $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/
	$(INSTALL) -d $(DESTDIR)$(GDB_AUTO_LOAD)$(LIBDIR)
	$(INSTALL) -m 644 src/debugger/librsasync-gdb.py \
	    $(DESTDIR)$(GDB_AUTO_LOAD)$(LIBDIR)/librsasync.so.$(VERSION)-gdb.py

# Packages of this tree, in target/packages. REVISION tells one of the same version from another;
# MAINTAINER is who answers for them. With cargo-auditable binaries tell their crates themselves.
REVISION   ?= 1
MAINTAINER ?= $(shell git log -1 --format='%cn <%ce>' 2> /dev/null || echo "$$USER <$$USER@localhost>")
deb rpm: export MAINTAINER := $(MAINTAINER)
deb rpm: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2> /dev/null || stat -c %Y Cargo.toml)
deb rpm: export CARGO := $(if $(word 2,$(CARGO)),$(CARGO),$(if $(shell \
    command -v cargo-auditable),$(CARGO) auditable,$(CARGO)))
# debhelper has a home of its own, in which no cargo would find anything.
deb rpm: export CARGO_HOME := $(or $(CARGO_HOME),$(HOME)/.cargo)
deb rpm: export RUSTUP_HOME := $(or $(RUSTUP_HOME),$(HOME)/.rustup)
deb rpm: export CARGO_TARGET_DIR := $(PACKAGES)/cargo

# The sources as a packager unpacks them. Both kinds are built in this one place, one after the other, so
# that they share what cargo builds.
PACKAGED := $(PACKAGES)/rsasync-$(VERSION)
define UNPACK
	rm -rf $(PACKAGED)
	mkdir -p $(PACKAGED)
	cp -a $(wildcard .cargo vendor) Cargo.lock Cargo.toml LICENSE Makefile README.md build.rs \
	    cbindgen.toml ctests examples include src $(PACKAGED)
endef
rpm: | $(filter deb,$(MAKECMDGOALS))
# Unpacks them where PACKAGED says.
sources:
	$(UNPACK)

# A name may have any character, so it goes through the environment.
BY_MAINTAINER = awk '{ at = index($$0, "@MAINTAINER@") } \
    at { $$0 = substr($$0, 1, at - 1) ENVIRON["MAINTAINER"] substr($$0, at + 12) } { print }'

deb:
	$(UNPACK)
	rm -f $(PACKAGES)/*.deb
	cp -r src/packaging/debian $(PACKAGED)
	$(BY_MAINTAINER) src/packaging/debian/control > $(PACKAGED)/debian/control
	printf '%s\n' 'rsasync ($(VERSION)-$(REVISION)) unstable; urgency=medium' '' \
	    '  * Version $(VERSION).' '' " -- $$MAINTAINER  $$(date -u -R -d @$$SOURCE_DATE_EPOCH)" \
	    > $(PACKAGED)/debian/changelog
	cd $(PACKAGED) && dpkg-buildpackage --build=binary --no-sign --build-profiles=pkg.rsasync.rustup

# On Debian rpm knows of no compiler, and has to be told not to ask for one.
rpm:
	$(UNPACK)
	rm -rf $(PACKAGES)/x86_64 $(PACKAGES)/aarch64
	$(FILL_IN) src/packaging/rsasync.spec | sed "s|@REVISION@|$(REVISION)|g; \
	    s|@DATE@|$$(LC_ALL=C date -u -d @$$SOURCE_DATE_EPOCH '+%a %b %d %Y')|" \
	    | $(BY_MAINTAINER) > $(PACKAGES)/rsasync.spec
	cd $(PACKAGED) && rpmbuild -bb --build-in-place --with rustup --define '_rpmdir $(PACKAGES)' \
	    --define '_topdir $(PACKAGES)/rpmbuild' \
	    $(if $(wildcard /var/lib/dpkg/status),--nodeps) $(PACKAGES)/rsasync.spec

# Generates the C headers from the Rust source.
headers:
	$(HERE) run $(OF_TESTS) --bin headers include

clean:
	$(CARGO) clean
