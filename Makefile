# What a person types: make demo, make test, make install. README.md tells more.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
CARGO   ?= cargo
CC      ?= cc
INSTALL ?= install

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
SHARED  := target/release/librsasync.so
STATIC  := target/static/librsasync.a
DEMO    := target/demo
SOAK    := target/soak

.PHONY: all library demo test bench fuzz soak matrix install headers clean

all: library $(STATIC)

library:
	$(CARGO) build --release --quiet -p rsasync

# One object, in which only the C functions are visible: a program may have a Boost.Context or
# a Rust library of its own, and the linker takes all of ours or nothing. Rust's own objects
# carry compiler intermediates, which confuse some linkers' plug-ins.
$(STATIC): library
	@mkdir -p $(@D)
	ld -r -u ASYNC_start_job target/release/librsasync.a -o $(@D)/rsasync.o
	objcopy --strip-debug --remove-section='.llvm*' --wildcard \
	    --keep-global-symbol='ASYNC_*' --keep-global-symbol='RSASYNC_*' $(@D)/rsasync.o
	rm -f $@
	ar rcs $@ $(@D)/rsasync.o

# Runs an example on the library, and then the installed openssl, unchanged.
demo: library
	@mkdir -p $(DEMO)
	@ln -sf ../release/librsasync.so $(DEMO)/librsasync.so.$(MAJOR)
	$(CC) -pthread -Iinclude examples/pipe.c -o $(DEMO)/pipe -Ltarget/release -lrsasync -Wl,-rpath,$(CURDIR)/$(DEMO)
	$(DEMO)/pipe
	@if command -v openssl > /dev/null; then set -x; \
	    RSASYNC_STATS=1 LD_PRELOAD=$(CURDIR)/$(SHARED) \
	        openssl speed -seconds 1 -bytes 1024 -async_jobs 8 -evp sha256; \
	else echo 'no openssl command here: nothing to preload into'; fi

# All tests. What they need beyond cargo, make and a C compiler is Debian's; see ctests/needs.
test:
	@sh ctests/needs
	$(CARGO) test --quiet

# What each call costs, of rsasync and of libcrypto in turn; plots and raw numbers are in
# target/bench. FLAGS go to the benchmark: --quick, and words of the rows that are wanted.
bench: library
	@sh ctests/needs
	$(CARGO) build --release --quiet -p ctests --bin bench
	target/release/bench $(FLAGS)

# Random work of everything in eight threads, for SECONDS (60 if not given).
soak: library
	@sh ctests/needs
	@mkdir -p $(SOAK)
	@ln -sf ../release/librsasync.so $(SOAK)/librsasync.so.$(MAJOR)
	$(CC) -std=gnu11 -g -O1 -pthread -DWITH_LIBCRYPTO -Iinclude -Ictests/include ctests/programs/soak.c \
	    -o $(SOAK)/soak -Ltarget/release -lrsasync -lcrypto -Wl,-rpath,$(CURDIR)/$(SOAK)
	SECONDS=$(or $(SECONDS),60) $(SOAK)/soak soak

# Random programs on rsasync and on libcrypto, until stopped or for SECONDS; FLAGS go to the
# fuzzer, which tells them by --help.
fuzz: library
	@sh ctests/needs
	$(CARGO) run --quiet --bin fuzz -- $(if $(SECONDS),--seconds $(SECONDS)) $(FLAGS)

# The checks on OpenSSL 1.1.1, the system's and 4.0: versions across, checks down. The first time
# it builds the two that the system does not have, which takes some minutes.
matrix:
	@sh ctests/needs
	$(CARGO) build --quiet -p ctests --bins
	target/debug/matrix $(CHECKS)

install: all
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)/pkgconfig \
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
	printf '%s\n' 'libdir=$(LIBDIR)' 'includedir=$(PREFIX)/include/rsasync' \
	    'standalone=$${includedir}/standalone' '' 'Name: rsasync' \
	    "Description: OpenSSL's asynchronous jobs, as a library of their own" \
	    'Version: $(VERSION)' 'Libs: -L$${libdir} -lrsasync' 'Cflags: -I$${includedir}' \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/rsasync.pc

# Writes the C headers anew from the Rust source.
headers:
	$(CARGO) run --quiet --bin headers include

clean:
	$(CARGO) clean
