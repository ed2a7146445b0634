/*
 * A stand-in for NVIDIA's driver, for tests without a GPU: the functions that microtorch/gpu calls,
 * strict about their arguments. A use that the driver forbids, or that would be a silent error on a
 * GPU, is kept in words for the test to find.
 */
#include "device.h"
#include <dlfcn.h>
#include <elf.h>

/* --------------------------------------------------------------------- start and contexts */

/* Begin, where there is a device. */
int cuInit(unsigned flags) {
    if (standin.starts || !standin.devices)
        return standin.starts ? standin.starts : NO_DEVICE;
    if (!process) {
        int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, how, -1, 0);
        process = getpid();
    }
    return process == getpid() && arena != MAP_FAILED ? SUCCESS : NOT_INITIALIZED;
}

/* The driver's words for the errors that tests look at. */
int cuGetErrorString(int code, const char **words) {
    *words = code == OUT_OF_MEMORY         ? "out of memory"
             : code == NOT_INITIALIZED     ? "initialization error"
             : code == ILLEGAL_ADDRESS     ? "an illegal memory access was encountered"
             : code == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
                                           : "unknown error";
    return SUCCESS;
}

/* The release of CUDA. */
int cuDriverGetVersion(int *version) {
    *version = standin.version;
    return SUCCESS;
}

/* How many devices there are. */
int cuDeviceGetCount(int *count) {
    ENTER;
    *count = standin.devices;
    return leave(SUCCESS);
}

/* A device by its number. */
int cuDeviceGet(int *device, int number) {
    ENTER;
    REQUIRE(number >= 0 && number < standin.devices, INVALID_VALUE, "no device %d", number);
    *device = number;
    return leave(SUCCESS);
}

/* The name, which ends with a 0. */
int cuDeviceGetName(char *name, int size, int device) {
    ENTER;
    snprintf(name, size, "Stand-in");
    return leave(SUCCESS);
}

/* Multiprocessors (16), or a part of the compute capability (75 and 76). */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER;
    *value = attribute == 16   ? standin.processors
             : attribute == 75 ? standin.capability / 10
                               : standin.capability % 10;
    return leave(SUCCESS);
}

/* Make the context. */
int cuDevicePrimaryCtxRetain(void **made, int device) {
    ENTER;
    standin.contexts++;
    *made = &context;
    return leave(SUCCESS);
}

/* Enter the context in this thread. */
int cuCtxSetCurrent(void *chosen) {
    ENTER;
    current = chosen;
    return leave(SUCCESS);
}

/* Wait for everything. */
int cuCtxSynchronize(void) {
    ENTER_CONTEXT;
    if ((code = broken(NULL)) == SUCCESS)
        finish_all();
    return leave(code);
}

/* ---------------------------------------------------------------------- memory and copies */

/* Bytes that are free, and all. */
int cuMemGetInfo(size_t *unused, size_t *total) {
    ENTER_CONTEXT;
    *unused = standin.total - standin.used;
    *total = standin.total;
    return leave(SUCCESS);
}

/* No address is given twice; what is read without being written first is nan. */
int cuMemAlloc(u64 *at, size_t size) {
    ENTER_CONTEXT;
    size_t whole = (size + 511) / 512 * 512;
    REQUIRE(size, INVALID_VALUE, "an allocation of 0 bytes");
    if (standin.full || standin.used + whole > (size_t)standin.total || taken + whole > ARENA)
        return leave(OUT_OF_MEMORY);
    *at = (u64)arena + taken + FAR;
    memset(host(*at), 255, whole < 1 << 20 ? whole : 1 << 20);
    hold(&blocks, *at, whole);
    taken += whole + 512;
    standin.used += whole;
    standin.allocations++;
    return leave(SUCCESS);
}

/* Freeing waits for all that uses the memory. */
int cuMemFree(u64 at) {
    ENTER_CONTEXT;
    finish_all();
    struct memory **found = find(&blocks, at);
    REQUIRE(*found && (*found)->at == at, INVALID_VALUE, "what is freed is not allocated");
    standin.used -= (*found)->size;
    *found = (*found)->next;
    return leave(SUCCESS);
}

/* Pinned memory. */
int cuMemAllocHost(void **at, size_t size) {
    ENTER_CONTEXT;
    if (standin.full)
        return leave(OUT_OF_MEMORY);
    *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    hold(&pins, (u64)*at, size);
    return leave(SUCCESS);
}

/* Who reads the memory from now on ends the process. */
int cuMemFreeHost(void *at) {
    ENTER_CONTEXT;
    finish_all();
    struct memory **found = find(&pins, (u64)at);
    REQUIRE(*found && (*found)->at == (u64)at, INVALID_VALUE, "what is freed is not pinned");
    mprotect(at, (*found)->size, PROT_NONE);
    *found = (*found)->next;
    return leave(SUCCESS);
}

/* Memory that is not pinned is read before the call is over. */
int cuMemcpyHtoDAsync(u64 to, const void *from, size_t size, void *handle) {
    ENTER_CONTEXT;
    struct work w = {COPY_IN, to, size, (char *)from, pinned(from)};
    if (!w.pinned)
        w.host = memcpy(malloc(size), from, size);
    return leave(give(handle, w));
}

/* Memory that is not pinned is written before the call is over. */
int cuMemcpyDtoHAsync(void *to, u64 from, size_t size, void *handle) {
    ENTER_CONTEXT;
    struct work w = {COPY_OUT, from, size, to, pinned(to)};
    code = give(handle, w);
    if (!w.pinned)
        finish(stream_of(handle));
    return leave(code);
}

/* Fill memory with a byte. */
int cuMemsetD8Async(u64 at, unsigned char byte, size_t size, void *handle) {
    ENTER_CONTEXT;
    return leave(give(handle, (struct work){FILL, at, size, .byte = byte}));
}

/* --------------------------------------------------------------------- streams and events */

/* A stream that waits for the default stream (flags 0) hinders captures in other threads. */
int cuStreamCreate(struct stream **made, unsigned flags) {
    ENTER_CONTEXT;
    REQUIRE(flags == 1, INVALID_VALUE, "a stream that blocks");
    *made = calloc(1, sizeof **made);
    **made = (struct stream){.kind = STREAM, .next = streams};
    streams = *made;
    return leave(SUCCESS);
}

/* Wait for a stream. */
int cuStreamSynchronize(void *handle) {
    ENTER_CONTEXT;
    struct stream *s = stream_of(handle);
    if ((code = broken(s)) == SUCCESS)
        finish(s);
    return leave(code);
}

/* Whether a stream is done. It goes on a step, so who asks in a loop comes to an end. */
int cuStreamQuery(void *handle) {
    ENTER_CONTEXT;
    struct stream *s = stream_of(handle);
    if ((code = broken(s)) == SUCCESS)
        advance(s);
    return leave(code ? code : waiting(s) ? NOT_READY : SUCCESS);
}

/* Let a stream wait for an event as it was recorded last. */
int cuStreamWaitEvent(void *handle, void *given, unsigned flags) {
    ENTER_CONTEXT;
    struct mark *mark = event_of(given)->last;
    REQUIRE(!stream_of(handle)->capture, CAPTURE_ISOLATION, "a capture waits for other work");
    return leave(mark ? give(handle, (struct work){WAIT, .mark = mark}) : SUCCESS);
}

/* An event, which takes no time with flags 2. */
int cuEventCreate(struct event **made, unsigned flags) {
    ENTER_CONTEXT;
    *made = calloc(1, sizeof **made);
    **made = (struct event){EVENT, flags};
    return leave(SUCCESS);
}

/* Let an event happen when a stream is done with what it has. */
int cuEventRecord(void *handle, void *stream) {
    ENTER_CONTEXT;
    struct event *event = event_of(handle);
    REQUIRE(!stream_of(stream)->capture, CAPTURED_EVENT, "an event is recorded in a capture");
    struct mark *mark = event->last = calloc(1, sizeof *mark);
    mark->stream = stream_of(stream);
    return leave(give(stream, (struct work){RECORD, .mark = mark}));
}

/* Whether an event has happened; its stream goes on a step. */
int cuEventQuery(void *handle) {
    ENTER_CONTEXT;
    struct mark *mark = event_of(handle)->last;
    if (mark && !mark->done)
        advance(mark->stream);
    return leave(mark && !mark->done ? NOT_READY : SUCCESS);
}

/* Wait for an event. */
int cuEventSynchronize(void *handle) {
    ENTER_CONTEXT;
    struct mark *mark = event_of(handle)->last;
    if (mark)
        finish_mark(mark);
    return leave(SUCCESS);
}

/* The time between two events. */
int cuEventElapsedTime(float *milliseconds, void *first, void *last) {
    ENTER_CONTEXT;
    struct event *a = event_of(first), *b = event_of(last);
    REQUIRE(!((a->flags | b->flags) & 2), INVALID_HANDLE, "events that take no time");
    REQUIRE(a->last && b->last, INVALID_HANDLE, "events that were not recorded");
    *milliseconds = b->last->time - a->last->time;
    return leave(a->last->done && b->last->done ? SUCCESS : NOT_READY);
}

/* --------------------------------------------------------- kernels, captures and graphs */

/* Machine code (ELF) or PTX, which ends with a 0. */
int cuModuleLoadData(struct module **made, const char *image) {
    ENTER_CONTEXT;
    const Elf64_Ehdr *head = (const void *)image;
    int ptx = !strncmp(image, "//", 2);
    REQUIRE(ptx || !memcmp(image, ELFMAG, SELFMAG), INVALID_IMAGE, "a module that is no code");
    size_t sections = head->e_shoff + (size_t)head->e_shnum * head->e_shentsize;
    size_t segments = head->e_phoff + (size_t)head->e_phnum * head->e_phentsize;
    size_t size = ptx ? strlen(image) + 1 : sections > segments ? sections : segments;
    *made = malloc(sizeof **made);
    **made = (struct module){MODULE, memcpy(malloc(size), image, size)};
    return leave(SUCCESS);
}

/* What PTX says of a kernel: how many words it takes. */
static int read_ptx(const char *image, struct kernel *kernel) {
    char entry[600];
    snprintf(entry, sizeof entry, ".entry %s(", kernel->name);
    const char *at = strstr(image, entry), *end = at ? strchr(at, ')') : NULL;
    while (at && (at = strstr(at + 1, ".param")) && at < end)
        kernel->words++;
    return end != NULL;
}

/* What machine code says of a kernel: its words, registers and bytes of shared memory. */
static int read_elf(const char *image, struct kernel *kernel) {
    const Elf64_Ehdr *head = (const void *)image;
    const Elf64_Shdr *sections = (const void *)(image + head->e_shoff);
    const char *names = image + sections[head->e_shstrndx].sh_offset;
    int found = 0;
    for (const Elf64_Shdr *s = sections; s < sections + head->e_shnum; s++) {
        const char *name = names + s->sh_name, *end = strstr(name, kernel->name);
        if (!end || strcmp(end, kernel->name))
            continue;
        if (!strncmp(name, ".text.", 6)) {
            found = 1;
            kernel->registers = s->sh_info >> 24;
        } else if (!strncmp(name, ".nv.shared.", 11)) {
            kernel->shared = s->sh_size;
        } else if (!strncmp(name, ".nv.info.", 9)) {
            /* Notes of a form, a name and a value or a size; 0x19 is the size of the words. */
            const unsigned char *note = (const void *)(image + s->sh_offset);
            for (const unsigned char *last = note + s->sh_size; note < last;) {
                int value = note[2] | note[3] << 8;
                if (note[0] == 3 && note[1] == 0x19)
                    kernel->words = value / 8;
                note += note[0] == 4 ? 4 + value : 4;
            }
        }
    }
    return found;
}

/* A kernel of a module. */
int cuModuleGetFunction(struct kernel **made, struct module *module, const char *name) {
    ENTER_CONTEXT;
    struct kernel *kernel = *made = calloc(1, sizeof *kernel);
    kernel->kind = KERNEL;
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    int ptx = *module->image == '/';
    int found = ptx ? read_ptx(module->image, kernel) : read_elf(module->image, kernel);
    REQUIRE(module->kind == MODULE && found, NOT_FOUND, "no kernel %s", name);
    return leave(SUCCESS);
}

/* Launch a kernel, whose words are copied at once, within the limits of a multiprocessor. */
int cuLaunchKernel(struct kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned block,
                   unsigned block_y, unsigned block_z, unsigned shared, void *handle, u64 **words,
                   void **extra) {
    ENTER_CONTEXT;
    REQUIRE(kernel->kind == KERNEL && !extra, INVALID_HANDLE, "no kernel is launched");
    REQUIRE(x && x < 1u << 31 && y && y < 1 << 16 && z == 1 && block && block <= 1024 &&
                block_y == 1 && block_z == 1,
            INVALID_VALUE, "a grid of %u %u x %u", x, y, block);
    REQUIRE(kernel->registers * block <= 65536 && kernel->shared + shared <= 49152,
            OUT_OF_RESOURCES, "%d registers, %d bytes", kernel->registers, kernel->shared);
    struct work w = {LAUNCH, .kernel = kernel, .x = x, .y = y, .block = block};
    w.words = malloc(8 * kernel->words);
    for (int k = 0; k < kernel->words; k++)
        w.words[k] = *words[k];
    return leave(give(handle, w));
}

/* Only a relaxed capture (mode 2) lets other threads free memory meanwhile. */
int cuStreamBeginCapture(void *handle, int mode) {
    ENTER_CONTEXT;
    struct stream *s = stream_of(handle);
    REQUIRE(s != &legacy && mode == 2 && !s->capture, CAPTURE_UNSUPPORTED, "mode %d", mode);
    s->capture = calloc(1, sizeof *s->capture);
    s->capture->kind = CAPTURED;
    return leave(SUCCESS);
}

/* What was captured, or an error if anything broke it off. */
int cuStreamEndCapture(void *handle, struct graph **made) {
    ENTER_CONTEXT;
    struct stream *s = stream_of(handle);
    REQUIRE(s->capture, INVALID_VALUE, "the end of a capture that did not begin");
    *made = s->invalidated ? NULL : s->capture;
    s->capture = NULL;
    code = s->invalidated ? CAPTURE_INVALIDATED : SUCCESS;
    s->invalidated = 0;
    return leave(code);
}

/* A graph that can be launched. */
int cuGraphInstantiateWithFlags(struct graph **made, struct graph *captured, u64 flags) {
    ENTER_CONTEXT;
    REQUIRE(captured->kind == CAPTURED, INVALID_HANDLE, "no graph is instantiated");
    *made = malloc(sizeof **made);
    **made = (struct graph){GRAPH, captured->works};
    standin.graphs++;
    return leave(SUCCESS);
}

/* Drop what was captured. */
int cuGraphDestroy(struct graph *captured) {
    ENTER;
    REQUIRE(captured->kind == CAPTURED, INVALID_HANDLE, "no graph is destroyed");
    captured->kind = 0;
    return leave(SUCCESS);
}

/* Launch all that a graph consists of. */
int cuGraphLaunch(struct graph *graph, void *handle) {
    ENTER_CONTEXT;
    REQUIRE(graph->kind == GRAPH, INVALID_HANDLE, "no graph is launched");
    standin.replays++;
    return leave(give(handle, (struct work){REPLAY, .graph = graph}));
}

/* Drop a graph, which must not wait in a stream. */
int cuGraphExecDestroy(struct graph *graph) {
    ENTER;
    REQUIRE(graph->kind == GRAPH, INVALID_HANDLE, "no graph is destroyed");
    graph->kind = 0;
    standin.graphs--;
    return leave(SUCCESS);
}

/* How bindings find all the others. */
int cuGetProcAddress_v2(const char *name, void **function, int version, u64 flags, int *status) {
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = self ? dlsym(self, name) : NULL;
    if (status)
        *status = !*function;
    return *function ? SUCCESS : NOT_FOUND;
}
