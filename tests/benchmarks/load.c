/* Load over HTTP/1.1 on keep-alive connections to loopback, on a fixed schedule or as fast as answers come.
 *
 * With --rate, request i is due at i / rate seconds (with --random 1 at the arrivals of a Poisson process),
 * whether or not earlier ones were answered; its latency counts from when it was due, so a stall of the
 * server shows in every request that it held up. With --rate 0 each connection sends its next request when
 * its answer has come, and latency counts from sending.
 * A body is a line of --bodies, in turn, with $T (a new transaction id), $M (the moment, ISO 8601), $C, $L
 * (customer and terminal, few of them frequent) and $A (amount in minor units) filled in.
 * Out: one line of JSON. An answer that is not 200 or lacks the text of --expect counts as an error, as does a
 * request that was not answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NANO 1000000000LL
#define DRAIN (5 * NANO) /* how long requests that were due may still be answered */
#define ROOM (1 << 18)

typedef struct {
    int fd, busy, sent, length, received;
    int64_t due;
    char *out, *in;
} Connection;

static int port, connections = 16, seconds = 10, random_arrivals, customers = 1, terminals = 1;
static double rate;
static int64_t first_id = 1, start_micros;
static const char *path = "/", *bodies_file, *headers_file, *expect = "";
static char **bodies, **headers;
static int body_count, header_count, poller, timer;
static uint64_t state = 88172645463325252ULL;
static int64_t begun, finished_at, sequence;
static uint32_t *latencies;
static int64_t answered, room_for, errors, refused, unexpected, broken, due_count;
static char example[400];

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * NANO + at.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double chance(void) { /* in (0, 1), xorshift64 */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return ((state >> 11) + 0.5) / 9007199254740992.0;
}

static char **lines_of(const char *file, int *count) {
    FILE *from = fopen(file, "r");
    char **lines = NULL, *line = NULL;
    size_t size = 0;
    ssize_t length;
    if (!from) fail(file);
    while ((length = getline(&line, &size, from)) > 0) {
        if (line[length - 1] == '\n') line[--length] = 0;
        lines = realloc(lines, (*count + 1) * sizeof *lines);
        lines[(*count)++] = strdup(line);
    }
    fclose(from);
    return lines;
}

static char *moment(char *to, int64_t micros) {
    static time_t known = -1;
    static char text[24];
    time_t second = micros / 1000000;
    if (second != known) {
        struct tm parts;
        gmtime_r(&second, &parts);
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
        known = second;
    }
    return to + sprintf(to, "%s.%06dZ", text, (int)(micros % 1000000));
}

static int write_body(char *to, int64_t due) {
    const char *from = bodies[sequence % body_count];
    char *at = to;
    for (; *from; from++) {
        if (*from != '$') {
            *at++ = *from;
            continue;
        }
        switch (*++from) {
        case 'T': at += sprintf(at, "%lld", (long long)(first_id + sequence)); break;
        case 'M': at = moment(at, start_micros + (due - begun) / 1000); break;
        case 'C': at += sprintf(at, "%d", 1 + (int)(customers * pow(chance(), 1.5))); break;
        case 'L': at += sprintf(at, "%d", 1 + (int)(terminals * pow(chance(), 1.5))); break;
        case 'A': at += sprintf(at, "%d", 100 + (int)exp(8 + 1.2 * (chance() + chance() + chance() - 1.5)));
        }
    }
    return at - to;
}

static void connect_one(Connection *one) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = one};
    int yes = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(one->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &wanted);
    one->busy = one->received = 0;
}

static void broke(Connection *one) {
    close(one->fd);
    errors += one->busy, broken += one->busy;
    connect_one(one);
}

static void push(Connection *one) { /* bodies are small: what does not fit now fits soon */
    while (one->sent < one->length) {
        ssize_t wrote = send(one->fd, one->out + one->sent, one->length - one->sent, MSG_NOSIGNAL);
        if (wrote > 0) one->sent += wrote;
        else if (errno != EAGAIN && errno != EINTR) { broke(one); return; }
    }
}

static void ask(Connection *one, int64_t due) {
    static char body[ROOM / 2];
    int length = write_body(body, due);
    const char *header = header_count ? headers[sequence % header_count] : NULL;
    int head = sprintf(one->out,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n%s%sContent-Length: %d\r\n\r\n",
        path, port, header ? header : "", header ? "\r\n" : "", length);
    memcpy(one->out + head, body, length);
    one->length = head + length, one->sent = 0, one->received = 0, one->busy = 1, one->due = due;
    sequence++;
    push(one);
}

static void answer(Connection *one, const char *body) {
    int64_t micros = (now() - one->due) / 1000;
    int ok = !strncmp(one->in + 9, "200", 3);
    one->busy = 0;
    if (!ok || !strstr(body, expect)) {
        if (!errors) snprintf(example, sizeof example, "%s", ok ? body : one->in);
        errors++, refused += !ok, unexpected += ok;
        return;
    }
    if (answered == room_for) {
        room_for = room_for ? 2 * room_for : 1 << 16;
        latencies = realloc(latencies, room_for * sizeof *latencies);
    }
    latencies[answered++] = micros > UINT32_MAX ? UINT32_MAX : micros;
}

static int hear(Connection *one) { /* whether an answer is complete */
    for (;;) {
        ssize_t got = recv(one->fd, one->in + one->received, ROOM - 1 - one->received, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
        if (got <= 0) { broke(one); return 0; }
        one->received += got;
        one->in[one->received] = 0;
        char *end = strstr(one->in, "\r\n\r\n"), *length = end ? strcasestr(one->in, "content-length:") : NULL;
        if (!end || !length) continue;
        if (one->received >= end + 4 - one->in + atoi(length + 15)) {
            answer(one, end + 4);
            return 1;
        }
    }
}

static int by_size(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static double at_share(double share) { /* the smallest latency that so many do not exceed, in milliseconds */
    if (!answered) return -1;
    int64_t place = (int64_t)ceil(share * answered) - 1;
    return latencies[place < 0 ? 0 : place] / 1000.0;
}

static int64_t next_due(int64_t last) {
    return last + (int64_t)((random_arrivals ? -log(chance()) : 1.0) / rate * NANO);
}

static void arm(int64_t at) {
    struct itimerspec when = {.it_value = {at / NANO, at % NANO}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void load(Connection *all) {
    Connection **idle = malloc(connections * sizeof *idle);
    struct epoll_event ready[256];
    int idle_count = 0;
    int64_t end = begun + seconds * NANO, due = begun, at;
    for (int i = 0; i < connections; i++) idle[idle_count++] = &all[i];
    for (;;) {
        at = now();
        while (idle_count && (rate > 0 ? due <= at && due < end : at < end)) {
            Connection *one = idle[--idle_count];
            ask(one, rate > 0 ? due : now());
            if (!one->busy) idle[idle_count++] = one; /* its connection broke */
            due_count++;
            if (rate > 0) due = next_due(due);
        }
        int waiting = rate > 0 && due < end && due <= at; /* due, and no connection is free */
        if (idle_count == connections && (at >= end || (rate > 0 && due >= end))) break;
        if (at >= end + DRAIN) {
            for (int i = 0; i < connections; i++) errors += all[i].busy, broken += all[i].busy;
            for (; waiting && due < end; due = next_due(due)) due_count++, errors++, broken++;
            break;
        }
        arm(rate > 0 && due < end && !waiting ? due : end + DRAIN);
        int found = epoll_wait(poller, ready, 256, -1);
        for (int i = 0; i < found; i++) {
            Connection *one = ready[i].data.ptr;
            uint64_t turns;
            if (!one) {
                if (read(timer, &turns, sizeof turns) < 0 && errno != EAGAIN) fail("timer");
                continue;
            }
            int was = one->busy;
            hear(one);
            if (was && !one->busy) idle[idle_count++] = one;
        }
    }
    finished_at = now();
}

int main(int count, char **given) {
    for (int i = 1; i + 1 < count; i += 2) {
        const char *name = given[i], *value = given[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--bodies")) bodies_file = value;
        else if (!strcmp(name, "--headers")) headers_file = value;
        else if (!strcmp(name, "--expect")) expect = value;
        else if (!strcmp(name, "--rate")) rate = atof(value);
        else if (!strcmp(name, "--seconds")) seconds = atoi(value);
        else if (!strcmp(name, "--connections")) connections = atoi(value);
        else if (!strcmp(name, "--random")) random_arrivals = atoi(value);
        else if (!strcmp(name, "--customers")) customers = atoi(value);
        else if (!strcmp(name, "--terminals")) terminals = atoi(value);
        else if (!strcmp(name, "--first-id")) first_id = atoll(value);
        else if (!strcmp(name, "--start-micros")) start_micros = atoll(value);
        else { fprintf(stderr, "load: unknown option %s\n", name); return 2; }
    }
    if (!bodies_file || !port) { fprintf(stderr, "load: --port and --bodies are needed\n"); return 2; }
    bodies = lines_of(bodies_file, &body_count);
    if (headers_file) headers = lines_of(headers_file, &header_count);
    state ^= (uint64_t)first_id * 2654435761ULL;
    prctl(PR_SET_TIMERSLACK, 1000);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ticks = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &ticks);
    Connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) {
        all[i].out = malloc(ROOM), all[i].in = malloc(ROOM);
        connect_one(&all[i]);
    }
    begun = now();
    load(all);
    qsort(latencies, answered, sizeof *latencies, by_size);
    double taken = (finished_at - begun) / 1e9;
    for (char *c = example; *c; c++) if (*c == '"' || *c == '\\' || *c < 32) *c = '\'';
    printf("{\"requests\": %lld, \"answered\": %lld, \"errors\": %lld, \"refused\": %lld, \"unexpected\": %lld, "
           "\"unanswered\": %lld, \"seconds\": %.3f, \"rate\": %.1f, \"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f, "
           "\"max\": %.3f, \"example\": \"%s\"}\n",
           (long long)due_count, (long long)answered, (long long)errors, (long long)refused,
           (long long)unexpected, (long long)broken, taken, answered / taken, at_share(0.5), at_share(0.99),
           at_share(0.999), at_share(1.0), example);
    return 0;
}
