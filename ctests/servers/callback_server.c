// A TLS server whose connections ask for callbacks: callback_server PORT PEM... It answers each
// connection with a page, and closes.

#define _GNU_SOURCE // accept4

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/async.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

// Called by the accelerator's thread: the connection's address goes through the pipe to the event
// loop.
static int resumable[2];

struct connection {
    SSL *ssl;
    int socket;
    bool is_paused; // its job waits for a callback
    bool has_read, is_answered;
};

static _Noreturn void fail(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int wake(SSL *ssl, void *connection) {
    (void)ssl;
    return write(resumable[1], &connection, sizeof connection) == sizeof connection;
}

static void end(struct connection *it) {
    SSL_free(it->ssl);
    close(it->socket);
    free(it);
}

static int next_step(struct connection *it) {
    static const char PAGE[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello\n";
    char request[4096];
    if (!it->has_read)
        return SSL_read(it->ssl, request, sizeof request); // the handshake, too
    if (!it->is_answered)
        return SSL_write(it->ssl, PAGE, sizeof PAGE - 1);
    return SSL_shutdown(it->ssl);
}

// Goes on with a connection, until it waits for the client or the accelerator.
static void go_on(struct connection *it) {
    for (;;) {
        int result = next_step(it);
        if (result > 0 && !it->has_read) {
            it->has_read = true;
            continue;
        }
        if (result > 0 && !it->is_answered) {
            it->is_answered = true;
            continue;
        }
        switch (SSL_get_error(it->ssl, result)) {
        case SSL_ERROR_WANT_ASYNC: {
            int status;
            it->is_paused = true;
            if (!SSL_get_async_status(it->ssl, &status) || status != ASYNC_STATUS_OK)
                fprintf(stderr, "error: a paused job has status %d\n", status);
            return;
        }
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            return;
        case SSL_ERROR_WANT_ASYNC_JOB:
            fail("error: no job can be had");
        default:
            ERR_clear_error();
            end(it);
            return;
        }
    }
}

// False if none waits.
static bool take_connection(SSL_CTX *ctx, int listener, int poll) {
    int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0)
        return false;
    struct connection *it = calloc(1, sizeof *it);
    it->socket = socket;
    it->ssl = SSL_new(ctx);
    if (it->ssl == NULL || !SSL_set_fd(it->ssl, socket) || !SSL_set_async_callback_arg(it->ssl, it))
        fail("SSL_new");
    SSL_set_accept_state(it->ssl);
    struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = it}};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) != 0)
        fail("epoll_ctl");
    return true;
}

static int listen_at(int port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(listener, 1024) != 0)
        fail("bind");
    return listener;
}

static SSL_CTX *with_keys(char **pems) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    for (; *pems != NULL; pems++)
        if (!SSL_CTX_use_certificate_chain_file(ctx, *pems)
            || !SSL_CTX_use_PrivateKey_file(ctx, *pems, SSL_FILETYPE_PEM))
            fail(*pems);
    SSL_CTX_set_mode(ctx, SSL_MODE_ASYNC);
    SSL_CTX_set_async_callback(ctx, wake);
    return ctx;
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count < 3 || pipe(resumable) != 0)
        fail("callback_server PORT PEM...");
    SSL_CTX *ctx = with_keys(arguments + 2);
    int listener = listen_at(atoi(arguments[1])), poll = epoll_create1(EPOLL_CLOEXEC);
    // Two events that are no connections are known by these addresses.
    struct epoll_event of_listener = {EPOLLIN, {.ptr = &listener}};
    struct epoll_event of_pipe = {EPOLLIN, {.ptr = resumable}};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &of_listener) != 0
        || epoll_ctl(poll, EPOLL_CTL_ADD, resumable[0], &of_pipe) != 0)
        fail("epoll_ctl");
    for (;;) {
        // One at a time: to end a connection leaves no event for it.
        struct epoll_event event;
        if (epoll_wait(poll, &event, 1, -1) < 1)
            continue;
        struct connection *it = event.data.ptr;
        if (event.data.ptr == &listener) {
            while (take_connection(ctx, listener, poll))
                ;
        } else if (event.data.ptr == resumable) {
            if (read(resumable[0], &it, sizeof it) != sizeof it)
                fail("read");
            it->is_paused = false;
            go_on(it);
        } else if (!it->is_paused) {
            go_on(it);
        }
    }
}
