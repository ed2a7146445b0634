/*
 * The GPU of the stand-in, on host memory. What a stream is given waits in a queue until something
 * asks for it, so it is done as late as a GPU may do it, when memory may be gone that it needs.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907
};

/* Device addresses are as far from the host's as those of microtorch/gpu/simulator.py. */
#define FAR (1ull << 60)
#define ARENA (32ull << 30)

typedef uint64_t u64;
typedef void Run(const char *name, unsigned x, unsigned y, unsigned block, u64 *words, int count);

/* What tests set, read, and set to 0; standin.py has the same fields in the same order. */
struct {
    int64_t version, starts, devices, capability, processors, total; /* what the driver says */
    int64_t full;          /* whether all memory is in use */
    int64_t launches_left; /* until the GPU is lost; -1: it is not */
    int64_t lost, contexts, allocations, used, launches, replays, graphs;
    Run *run; /* does what a kernel does; NULL: nothing */
    char misuse[400];
} standin = {.version = 13000,
             .devices = 1,
             .capability = 90,
             .processors = 132,
             .total = 8ll << 30,
             .launches_left = -1};

enum kind { STREAM = 1, EVENT, MODULE, KERNEL, CAPTURED, GRAPH };

struct module {
    enum kind kind;
    char *image;
};

struct kernel {
    enum kind kind;
    char name[500];
    int words, registers, shared;
};

/* A place in a stream; the time, in milliseconds, at which it was come to. */
struct mark {
    struct stream *stream;
    int done;
    double time;
};

struct event {
    enum kind kind;
    unsigned flags;
    struct mark *last; /* Earlier ones stay what they are for those that wait for them. */
};

struct work {
    enum { COPY_IN, COPY_OUT, FILL, LAUNCH, RECORD, WAIT, REPLAY } kind;
    u64 at;
    size_t size;
    char *host;
    int pinned, byte;
    struct mark *mark;
    struct kernel *kernel;
    unsigned x, y, block;
    u64 *words;
    struct graph *graph;
};

struct queue {
    struct work *items;
    int first, count, room;
};

/* What was captured (CAPTURED), or can be launched (GRAPH). */
struct graph {
    enum kind kind;
    struct queue works;
};

struct stream {
    enum kind kind;
    struct queue works;
    struct graph *capture;
    int invalidated;
    struct stream *next;
};

struct memory {
    u64 at;
    size_t size;
    struct memory *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pid_t process;          /* that began */
static int context;            /* of which there is one */
static __thread void *current; /* the context of this thread */
static char *arena;            /* memory of the device, and how much of it was ever in use */
static size_t taken;
static struct memory *blocks, *pins;
static struct stream legacy = {.kind = STREAM}, *streams = &legacy;

/* ------------------------------------------------------------------- the frame of a call */

/* Keep the first misuse in words; gives the code. */
static int misuse(enum code code, const char *words, ...) {
    va_list rest;
    va_start(rest, words);
    if (!*standin.misuse)
        vsnprintf(standin.misuse, sizeof standin.misuse, words, rest);
    va_end(rest);
    return code;
}

/* The end of a call: an error of earlier work shows up in any. */
static int leave(int code) {
    if (standin.lost && (code == SUCCESS || code == NOT_READY))
        code = ILLEGAL_ADDRESS;
    pthread_mutex_unlock(&mutex);
    return code;
}

/* The beginning: one call at a time, in the process that began. */
static int enter(void) {
    pthread_mutex_lock(&mutex);
    int code = process == getpid() ? SUCCESS : NOT_INITIALIZED;
    return code || standin.lost ? leave(code) : SUCCESS;
}

#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return leave(misuse(__VA_ARGS__));                                                     \
    } while (0)
#define ENTER                                                                                      \
    int code = enter();                                                                            \
    do {                                                                                           \
        if (code)                                                                                  \
            return code;                                                                           \
    } while (0)
#define ENTER_CONTEXT                                                                              \
    ENTER;                                                                                         \
    REQUIRE(current == &context, INVALID_CONTEXT, "%s without a context", __func__)

/* --------------------------------------------------------------------------------- memory */

/* The memory that an address lies in: the place where the list names it, or ends. */
static struct memory **find(struct memory **list, u64 at) {
    while (*list && (at < (*list)->at || at >= (*list)->at + (*list)->size))
        list = &(*list)->next;
    return list;
}

/* Whether memory of the device is in use. */
static int allocated(u64 at, size_t size) {
    struct memory *found = *find(&blocks, at);
    return found && at + size <= found->at + found->size;
}

/* Whether memory of the host is pinned. */
static int pinned(const void *at) {
    return *find(&pins, (u64)at) != NULL;
}

/* The memory that stands for a device address. */
static void *host(u64 at) {
    return (void *)(at - FAR);
}

/* Note memory that is in use from now on. */
static void hold(struct memory **list, u64 at, size_t size) {
    struct memory *made = malloc(sizeof *made);
    *made = (struct memory){at, size, *list};
    *list = made;
}

/* ----------------------------------------------------------------------------------- work */

static void finish_mark(struct mark *mark);

/* Run a kernel, whose words are memory in use where they look like device addresses. */
static void launch(struct work *w) {
    u64 first = (u64)arena + FAR;
    for (int k = 0; k < w->kernel->words; k++) {
        u64 word = w->words[k];
        int used = *find(&blocks, word) || *find(&blocks, word - 1); /* the end of an array */
        if (word >= first && word < first + ARENA && !used) {
            standin.lost = 1;
            misuse(0, "%s is given memory that is not allocated", w->kernel->name);
        }
    }
    standin.lost |= standin.launches_left == 0;
    standin.launches_left -= standin.launches_left > 0;
    standin.launches++;
    if (standin.run && !standin.lost)
        standin.run(w->kernel->name, w->x, w->y, w->block, w->words, w->kernel->words);
}

/* Do one piece of work, for which its memory must still be there. */
static void perform(struct work *w) {
    struct timespec now;
    if (standin.lost)
        return;
    if (w->kind <= FILL && !allocated(w->at, w->size)) {
        standin.lost = 1;
        misuse(0, "memory was freed before its copy or fill");
    } else if (w->pinned && !pinned(w->host)) {
        misuse(0, "pinned memory was freed before its copy");
    } else if (w->kind == COPY_IN) {
        memcpy(host(w->at), w->host, w->size);
    } else if (w->kind == COPY_OUT) {
        memcpy(w->host, host(w->at), w->size);
    } else if (w->kind == FILL) {
        memset(host(w->at), w->byte, w->size);
    } else if (w->kind == LAUNCH) {
        launch(w);
    } else if (w->kind == RECORD) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        w->mark->done = 1;
        w->mark->time = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
    } else if (w->kind == WAIT) {
        finish_mark(w->mark);
    } else if (w->graph->kind != GRAPH) {
        misuse(0, "a graph was destroyed before it ran");
    } else {
        for (int k = 0; k < w->graph->works.count; k++)
            perform(&w->graph->works.items[k]);
    }
}

/* Whether a stream has work to do. */
static int waiting(struct stream *s) {
    return s->works.first < s->works.count;
}

/* Do what comes first in a stream. */
static void advance(struct stream *s) {
    if (!waiting(s))
        return;
    struct work w = s->works.items[s->works.first++];
    if (!waiting(s))
        s->works.first = s->works.count = 0;
    perform(&w);
    free(w.words);
    if (w.kind == COPY_IN && !w.pinned)
        free(w.host);
}

/* Do all that a stream was given. */
static void finish(struct stream *s) {
    while (waiting(s))
        advance(s);
}

/* Do all that all streams were given. */
static void finish_all(void) {
    for (struct stream *s = streams; s; s = s->next)
        finish(s);
}

/* Do what comes before a mark. */
static void finish_mark(struct mark *mark) {
    while (!mark->done && waiting(mark->stream))
        advance(mark->stream);
}

/* The stream of a handle, of which 0 and 1 are the default stream. */
static struct stream *stream_of(void *handle) {
    struct stream *s = (u64)handle <= 1 ? &legacy : handle;
    if (s->kind != STREAM)
        misuse(0, "%p is no stream", handle);
    return s;
}

/* The event of a handle. */
static struct event *event_of(void *handle) {
    struct event *event = handle;
    if (event->kind != EVENT)
        misuse(0, "%p is no event", handle);
    return event;
}

/* What waits for a stream, or for all (NULL), breaks off what that stream captures. */
static int broken(struct stream *one) {
    int code = SUCCESS;
    for (struct stream *s = streams; s; s = s->next)
        if (s->capture && (!one || s == one)) {
            s->invalidated = 1;
            code = CAPTURE_UNSUPPORTED;
        }
    return code;
}

/* Give a stream work; if it captures, it notes the work instead. */
static int give(void *handle, struct work w) {
    struct stream *s = stream_of(handle);
    struct queue *q = s->capture ? &s->capture->works : &s->works;
    if (w.kind <= FILL && !allocated(w.at, w.size))
        return misuse(INVALID_VALUE, "a copy or fill of memory that is not allocated");
    if (s->invalidated)
        return CAPTURE_INVALIDATED;
    if (s->capture && w.kind < FILL)
        return broken(s);
    if (q->count == q->room) {
        q->room = 2 * q->room + 8;
        q->items = realloc(q->items, q->room * sizeof w);
    }
    q->items[q->count++] = w;
    return SUCCESS;
}
