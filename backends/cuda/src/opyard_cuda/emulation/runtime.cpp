// Runs the blocks of a launch one after the other, and the threads of a block as fibres that take turns at barriers.
//
// A fibre runs until it waits, so who runs next decides about everything that CUDA leaves open: the order is one of several
// schedules, of which one also interrupts fibres before accesses to memory. Every access is checked: it must lie in a buffer of
// the launch, be aligned, not write to what is const, not read shared memory that nobody wrote, and be ordered by a barrier
// behind every other thread's access to the same bytes where one of the two writes.
#include "cuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {
namespace {

constexpr int MOST_THREADS = 1024, WARP = 32, STACK_BYTES = 64 * 1024, MOST_MASKS = 8;
constexpr long long MOST_ACCESSES = 100'000'000;

enum Schedule { LOCKSTEP, REVERSED, RANDOM, AHEAD };
enum State { READY, WAITING, DONE };

struct Fibre {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  uint3 index;
  int number, warp, lane;
  State state;
  unsigned int block_epoch, warp_epoch;
};

// Lanes that meet under one mask. Values are kept twice: a lane may give the next before a slow one has read the last.
struct Meeting {
  unsigned int mask, arrived, generation;
  int line;
  unsigned long long values[2][WARP];
};

struct Mark {  // an access; a thread or warp below 0: several
  unsigned int serial, block_epoch, warp_epoch;
  short thread, warp;
  bool atomic, blocks;
};
struct Cell { Mark writer, reader; };

struct Region {
  const char *begin, *end;
  int number;  // of the buffer, below 0 for shared memory
  bool writable;
  int granule;
  std::vector<Cell> cells;
};

Fibre fibres[MOST_THREADS];
Meeting meetings[MOST_THREADS / WARP][MOST_MASKS];
Fibre scheduler;
Fibre* current;
char* stacks;
std::vector<Region> regions;
Region* last_region;
const char *image_begin, *image_end;
uint3 block, blocks, threads;
char* shared_memory;
int order[MOST_THREADS];
int thread_count, live, waiting, barrier_line, barrier_count, barrier_result, schedule, cursor;
unsigned int serial, first_serial, random_state;
long long accesses;
bool failed;
char message[1024];
void (*function)(void**);
void** arguments;

unsigned int random_number() {
  random_state ^= random_state << 13, random_state ^= random_state >> 17, random_state ^= random_state << 5;
  return random_state;
}

#if defined(__x86_64__)
extern "C" void opyard_switch(void** save, void* load);
asm(R"(
.text
opyard_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
void go(Fibre& from, Fibre& to) { opyard_switch(&from.stack_pointer, to.stack_pointer); }
void begin(Fibre& fibre, char* top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top) - 8;
  stack[6] = reinterpret_cast<void*>(entry);
  fibre.stack_pointer = stack;
}
#else
void go(Fibre& from, Fibre& to) { swapcontext(&from.context, &to.context); }
void begin(Fibre& fibre, char* top, void (*entry)()) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = top - STACK_BYTES;
  fibre.context.uc_stack.ss_size = STACK_BYTES;
  makecontext(&fibre.context, entry, 0);
}
#endif

void fail(const char* format, ...);

// a turn counts as many accesses, so that loops that only meet other threads come to an end, too
void give_way() {
  accesses += 50;
  if (accesses > MOST_ACCESSES) fail("comes to no end");
  go(*current, scheduler);
}

__attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
  if (failed) return;
  va_list values;
  va_start(values, format);
  int length = vsnprintf(message, sizeof message, format, values);
  va_end(values);
  const uint3 i = current->index;
  snprintf(message + length, sizeof message - length, " (thread %u, %u, %u of block %u, %u, %u)", i.x, i.y, i.z, block.x,
           block.y, block.z);
  failed = true;
  go(*current, scheduler);  // never to return
}

void run_fibre() {
  function(arguments);
  current->state = DONE;
  --live;
  if (waiting) fail("a thread leaves the kernel while others wait in line %d for all threads", barrier_line);
  give_way();
}

Fibre* next_fibre() {
  if (schedule == AHEAD) {
    for (int i = 0; i < thread_count; ++i)
      if (fibres[order[i]].state == READY) return &fibres[order[i]];
    return nullptr;
  }
  if (schedule == RANDOM) cursor = random_number() % thread_count;
  const int step = schedule == REVERSED ? thread_count - 1 : 1;
  for (int i = 0; i < thread_count; ++i) {
    cursor = (cursor + step) % thread_count;
    if (fibres[cursor].state == READY) return &fibres[cursor];
  }
  return nullptr;
}

// one warp as far as it can go, then the next; within a warp one lane as far as it can go
void draw_order() {
  const int warps = (thread_count + WARP - 1) / WARP;
  int shuffled[MOST_THREADS / WARP];
  for (int w = 0; w < warps; ++w) shuffled[w] = w;
  for (int w = warps - 1; w > 0; --w) std::swap(shuffled[w], shuffled[random_number() % (w + 1)]);
  int count = 0;
  for (int w = 0; w < warps; ++w) {
    const int first = count;
    for (int t = shuffled[w] * WARP; t < thread_count && t < (shuffled[w] + 1) * WARP; ++t) order[count++] = t;
    for (int i = count - 1; i > first; --i) std::swap(order[i], order[first + random_number() % (i - first + 1)]);
  }
}

void run_block() {
  ++serial;
  live = thread_count;
  waiting = barrier_count = 0;
  cursor = schedule == REVERSED ? 0 : thread_count - 1;
  memset(meetings, 0, sizeof(meetings[0]) * ((thread_count + WARP - 1) / WARP));
  for (int t = 0; t < thread_count; ++t) {
    Fibre& fibre = fibres[t];
    fibre.index = {t % threads.x, t / threads.x % threads.y, t / (threads.x * threads.y)};
    fibre.number = t, fibre.warp = t / WARP, fibre.lane = t % WARP;
    fibre.state = READY;
    fibre.block_epoch = fibre.warp_epoch = 0;
    begin(fibre, stacks + (t + 1ll) * STACK_BYTES, run_fibre);
  }
  if (schedule == AHEAD) draw_order();
  while (live && !failed) {
    Fibre* next = next_fibre();
    if (!next) {
      for (int t = 0; t < thread_count; ++t)
        if (fibres[t].state == WAITING) current = &fibres[t];
      if (waiting) return fail("some threads wait in line %d for all threads, others for their warp", barrier_line);
      return fail("a lane waits for lanes of its warp that never come");
    }
    current = next;
    go(scheduler, *next);
  }
}

#include "memory.h"

int meet(int line, unsigned int mask, unsigned long long value, Meeting** found) {
  Meeting* meeting = nullptr;
  for (Meeting& candidate : meetings[current->warp])
    if (candidate.mask == mask || !candidate.mask) {
      meeting = &candidate;
      break;
    }
  if (!meeting) return fail("meets under more than %d masks", MOST_MASKS), 0;
  if (!(mask >> current->lane & 1)) return fail("lane %d is not in its mask %08x", current->lane, mask), 0;
  for (int lane = 0; lane < WARP; ++lane) {
    const int number = current->warp * WARP + lane;
    if (mask >> lane & 1 && (number >= thread_count || fibres[number].state == DONE))
      return fail("line %d waits for lane %d, which is not there", line, lane), 0;
  }
  if (meeting->arrived && meeting->line != line)
    return fail("lanes of one mask meet in line %d and in line %d", meeting->line, line), 0;
  meeting->mask = mask, meeting->line = line;
  meeting->arrived |= 1u << current->lane;
  const int side = meeting->generation & 1;
  meeting->values[side][current->lane] = value;
  if (meeting->arrived == mask) {
    meeting->arrived = 0, ++meeting->generation;
    for (int lane = 0; lane < WARP; ++lane)
      if (mask >> lane & 1) fibres[current->warp * WARP + lane].state = READY;
  } else {
    current->state = WAITING;
  }
  give_way();
  *found = meeting;
  return side;
}

}  // namespace

uint3 thread_index() { return current->index; }
uint3 block_index() { return block; }
uint3 block_size() { return threads; }
uint3 grid_size() { return blocks; }
char* dynamic_shared() { return shared_memory; }
int lane() { return current->lane; }

int sync_threads_count(int line, int predicate) {
  if (live != thread_count) fail("line %d waits for all threads, of which %d have left the kernel", line, thread_count - live);
  if (waiting && barrier_line != line) fail("threads of one block wait in line %d and in line %d", barrier_line, line);
  barrier_line = line;
  barrier_count += predicate != 0;
  current->state = WAITING;
  if (++waiting == thread_count) {
    barrier_result = barrier_count, waiting = barrier_count = 0;
    for (int t = 0; t < thread_count; ++t) fibres[t].state = READY, ++fibres[t].block_epoch, ++fibres[t].warp_epoch;
  }
  give_way();
  return barrier_result;
}
void sync_threads(int line) { sync_threads_count(line, 0); }

void sync_warp(int line, unsigned int mask) {
  Meeting* meeting;
  meet(line, mask, 0, &meeting);
  const int lanes = thread_count - current->warp * WARP;
  const unsigned int all = lanes >= WARP ? ~0u : (1u << lanes) - 1;
  if (mask == all) ++current->warp_epoch;  // lanes of a part of the warp count as not ordered
}
unsigned long long exchange(int line, unsigned int mask, unsigned long long value, int source) {
  Meeting* meeting;
  const int side = meet(line, mask, value, &meeting);
  if (source < 0) return value;
  if (!(mask >> source & 1)) fail("line %d reads lane %d, which is not in the mask", line, source);
  return meeting->values[side][source];
}
unsigned int ballot(int line, unsigned int mask, int predicate) {
  Meeting* meeting;
  const int side = meet(line, mask, predicate != 0, &meeting);
  unsigned int result = 0;
  for (int lane = 0; lane < WARP; ++lane)
    if (mask >> lane & 1 && meeting->values[side][lane]) result |= 1u << lane;
  return result;
}
void atomic_access(const void* address, int size) { access(address, size, true, true); }

float half_to_float(unsigned short bits) {
  const unsigned int sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * ldexpf(float(fraction), -24);
  const unsigned int scaled = exponent == 31 ? 0xff : exponent + 112;
  return of_bits<float>(sign | scaled << 23 | fraction << 13);
}
unsigned short float_to_half(float value) {
  const unsigned int bits = (unsigned int)bits_of(value), sign = bits >> 16 & 0x8000u;
  if (value != value) return sign | 0x7e00u;
  const float magnitude = fabsf(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  if (magnitude < 6.103515625e-05f) return sign | (unsigned int)rintf(magnitude * 16777216.0f);  // subnormal
  const unsigned int whole = bits & 0x7fffffffu;
  return sign | ((whole + 0xfffu + (whole >> 13 & 1u)) - (112u << 23)) >> 13;  // to nearest, ties to even
}

}  // namespace emulation

using namespace emulation;

struct Buffer { char* begin; long long size; int writable; };
struct Image { const char *begin, *end; char *shared_begin, *shared_end; };

// Runs a launch. Gives 1, and the reason in `text`, for a kernel that does what it must not.
extern "C" int opyard_launch(const Entry* entry, const Image* image, void** values, const Buffer* buffers, int count,
                             const unsigned int* sizes, int shared_bytes, int policy, unsigned int seed, char* text, int room) {
  static std::vector<char> dynamic;
  if (!stacks)
    stacks = static_cast<char*>(mmap(nullptr, (size_t)MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  blocks = {sizes[0], sizes[1], sizes[2]}, threads = {sizes[3], sizes[4], sizes[5]};
  thread_count = threads.x * threads.y * threads.z;
  dynamic.assign(shared_bytes + 16, char(0xff));
  shared_memory = reinterpret_cast<char*>((reinterpret_cast<unsigned long long>(dynamic.data()) + 15) & ~15ull);
  memset(image->shared_begin, 0xff, image->shared_end - image->shared_begin);  // NaN in every format
  image_begin = image->begin, image_end = image->end;
  regions.clear();
  last_region = nullptr;
  regions.push_back(region_at(image->shared_begin, image->shared_end - image->shared_begin, -1, true));
  regions.push_back(region_at(shared_memory, shared_bytes, -1, true));
  for (int i = 0; i < count; ++i) regions.push_back(region_at(buffers[i].begin, buffers[i].size, i, buffers[i].writable));
  function = entry->call, arguments = values;
  schedule = policy, random_state = seed * 2654435761u | 1u;
  failed = false, accesses = 0;
  first_serial = serial + 1;
  const long long total = 1ll * blocks.x * blocks.y * blocks.z;
  const long long turn = policy == RANDOM ? random_number() % total : 0;
  for (long long i = 0; i < total && !failed; ++i) {
    const long long b = policy == REVERSED ? total - 1 - i : (i + turn) % total;
    block = {unsigned(b % blocks.x), unsigned(b / blocks.x % blocks.y), unsigned(b / blocks.x / blocks.y)};
    run_block();
  }
  current = nullptr;
  if (failed) snprintf(text, room, "%s", message);
  return failed;
}

extern "C" {
#define OPYARD_ACCESS(size) \
  void __tsan_read##size(void* address) { access(address, size, false); } \
  void __tsan_write##size(void* address) { access(address, size, true); } \
  void __tsan_unaligned_read##size(void* address) { access(address, size, false); } \
  void __tsan_unaligned_write##size(void* address) { access(address, size, true); }
OPYARD_ACCESS(1)
OPYARD_ACCESS(2)
OPYARD_ACCESS(4)
OPYARD_ACCESS(8)
OPYARD_ACCESS(16)
void __tsan_read_range(void* address, unsigned long size) { access(address, int(size), false); }
void __tsan_write_range(void* address, unsigned long size) { access(address, int(size), true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
struct Place { const char* file; unsigned int line, column; };
void __ubsan_handle_out_of_bounds(const Place* place, long long index) {
  if (current) fail("element %lld is outside of its array in line %u", index, place->line);
}
void __ubsan_handle_type_mismatch_v1(const Place* place, const char* address) {
  if (!current) return;
  const Region* region = region_of(address);
  if (!region) return outside(address, 1, false);
  fail("byte %lld of %s, used in line %u, is not aligned", (long long)(address - region->begin), name_of(*region), place->line);
}
void __ubsan_handle_divrem_overflow(const Place* place, long long, long long) {
  if (current) fail("divides by zero in line %u", place->line);
}
}
