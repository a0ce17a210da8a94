// Runs the threads of a block in turns on one system thread: fibers, barriers, warp collectives, asynchronous copies.
//
// A thread runs until it waits; then the next one in the queue goes on. `index` and `reverse` fill the queue in that order,
// `random` draws from it. What a correct kernel computes does not depend on it.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <unordered_map>
#include <vector>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "runtime.h"

namespace tu_emu {

Place place;
Launch launch;
Block block;
Thread *current;
std::vector<Warp> warps;

namespace {
std::vector<Thread> threads;
std::vector<int> ready;       // numbers of the threads that can run, from `head` on
size_t head;
std::mt19937 random_numbers;
std::vector<Stack *> stacks;  // all that were ever made; they serve launch after launch
std::vector<Stack *> idle;    // those with no thread on them
Context main_context;
pthread_t runner;             // the system thread of this launch
}  // namespace

// ---- fibers: a stack, and the registers that a function must preserve ----------------------------------------------------

#if defined(__x86_64__) && !defined(TU_UCONTEXT)
extern "C" void tu_switch(void **save, void *to);
asm(R"(
.text
.hidden tu_switch
.globl tu_switch
.type tu_switch, @function
tu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size tu_switch, .-tu_switch
)");  // jmp where ret would do: the processor predicts a ret to go back to the caller, which it never does here

static void swap_context(Context &from, Context &to) { tu_switch(&from.stack_pointer, to.stack_pointer); }

static void prepare(Stack &s, void (*entry)()) {
  void **top = reinterpret_cast<void **>(s.high);
  *--top = nullptr;                               // where a caller would have left its return address
  *--top = reinterpret_cast<void *>(entry);
  s.context.stack_pointer = top - 6;              // six registers, of any value
}
#else
static void swap_context(Context &from, Context &to) { swapcontext(&from, &to); }

static void prepare(Stack &s, void (*entry)()) {
  getcontext(&s.context);
  s.context.uc_stack.ss_sp = s.low;
  s.context.uc_stack.ss_size = size_t(s.high - s.low);
  s.context.uc_link = nullptr;
  makecontext(&s.context, entry, 0);
}
#endif

static void run_threads();

constexpr size_t STACK = 64 << 10;

static Stack *new_stack() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  void *mapped = mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED || mprotect(mapped, page, PROT_NONE)) {  // an overflow is a crash with a line number, not a riddle
    std::perror("tinyunet's emulator: no memory for the stack of a CUDA thread");
    std::abort();
  }
  char *memory = static_cast<char *>(mapped);
  char *high = memory + page + STACK - stacks.size() % 64 * 64;  // or all stacks would compete for the same lines of the cache
  stacks.push_back(new Stack{Context(), memory + page, high});
  prepare(*stacks.back(), run_threads);
  return stacks.back();
}

// ---- turns ---------------------------------------------------------------------------------------------------------------

static Thread *next_thread() {                    // null when nobody can run
  if (head == ready.size()) return nullptr;
  if (launch.schedule == Launch::RANDOM) std::swap(ready[head], ready[head + random_numbers() % (ready.size() - head)]);
  Thread *t = &threads[ready[head++]];
  if (head == ready.size()) ready.clear(), head = 0;
  return t;
}

static void make_ready(Thread &t) {
  t.state = READY;
  ready.push_back(t.number);
}

static void set_current(Thread *t) {
  t->state = RUNNING;
  place.thread = t->index;
  current = t;
}

static void go_on_with(Thread *t, Context &from) {
  if (!t->stack) {
    if (idle.empty()) idle.push_back(new_stack());
    t->stack = idle.back();
    idle.pop_back();
  }
  set_current(t);
  swap_context(from, t->stack->context);
}

static void wait(Address pc) {                    // the caller has said for what
  Thread *me = current, *t = next_thread();
  me->pc = pc;
  if (t == me) me->state = RUNNING;
  else if (t) go_on_with(t, me->stack->context);
  else swap_context(me->stack->context, main_context);  // deadlock, for run_block to tell
}

void stop() {
  block.stopped = true;
  Context gone;
  swap_context(gone, main_context);
  __builtin_unreachable();
}

static void finish_thread();

static void run_threads() {  // the bottom of every stack: one thread after the other, without a switch where none waits
  for (;;) {
    launch.kernel(launch.arguments);
    finish_thread();
    Stack *mine = current->stack;
    Thread *t = next_thread();
    if (t && !t->stack) {
      t->stack = mine;
      set_current(t);
      continue;
    }
    idle.push_back(mine);
    if (t) go_on_with(t, mine->context);
    else swap_context(mine->context, main_context);
  }
}

// ---- the barrier of the block --------------------------------------------------------------------------------------------

static void open_barrier_if_all_wait() {
  if (!block.waiting || block.waiting + block.finished < block.threads) return;
  const Thread *first = nullptr;
  int holds = 0;
  for (Thread &t : threads)
    if (t.state == AT_BARRIER) {
      holds += t.predicate;
      if (!first) first = &t;
      else if (t.site != first->site)
        if (Finding *f = found(DIVERGENT_BARRIER, first->pc, t.pc)) f->thread = first->number, f->other_thread = t.number;
    }
  if (block.finished)
    if (Finding *f = found(RETURNED_BEFORE_BARRIER, first->pc)) f->thread = first->number, f->a = block.finished;
  block.epoch++;
  block.waiting = 0;
  auto release = [&](Thread &t) { if (t.state == AT_BARRIER) t.result = uint64_t(holds), make_ready(t); };
  if (launch.schedule == Launch::REVERSE) std::for_each(threads.rbegin(), threads.rend(), release);
  else std::for_each(threads.begin(), threads.end(), release);
}

int barrier(int site, int predicate) {
  current->site = site;
  current->predicate = predicate;
  current->pc = Address(__builtin_return_address(0));
  current->state = AT_BARRIER;
  block.waiting++;
  open_barrier_if_all_wait();
  wait(current->pc);
  return int(current->result);
}

// ---- warp collectives: every lane brings its operands; the last to come computes for all ---------------------------------

static void do_shuffle(Thread *lanes, unsigned who) {
  for (int i = 0; i < 32; i++) {
    if (!(who >> i & 1)) continue;
    Thread &t = lanes[i];
    const int first = i & -t.width, end = first + t.width;  // the segment of `width` lanes
    int from = t.how == FROM ? first + (t.lane & (t.width - 1)) : t.how == UP ? i - t.lane : t.how == DOWN ? i + t.lane : i ^ t.lane;
    if (from >= end || (t.how == UP && from < first)) from = i;  // past its segment a lane gets its own value
    if (!(who >> from & 1)) {
      if (Finding *f = found(ABSENT_LANE, t.pc)) f->thread = t.number, f->a = from;
      from = i;
    }
    t.result = lanes[from].value;
  }
}

static float tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }  // the tensor core ignores the low 13 bits

static void do_mma(Thread *lanes) {  // D = A B + D, 16x8 by 8x8; which lane holds which element is PTX's table for m16n8k8
  float A[16][8], B[8][8], D[16][8];
  for (int i = 0; i < 32; i++) {
    const int g = i / 4, t = i % 4;
    for (int j = 0; j < 4; j++) A[g + j % 2 * 8][t + j / 2 * 4] = tf32(lanes[i].a[j]), D[g + j / 2 * 8][2 * t + j % 2] = lanes[i].d[j];
    for (int j = 0; j < 2; j++) B[t + 4 * j][g] = tf32(lanes[i].b[j]);
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 8; k++)
      for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
  for (int i = 0; i < 32; i++)
    for (int j = 0; j < 4; j++) lanes[i].d[j] = D[i / 4 + j / 2 * 8][i % 4 * 2 + j % 2];
}

static void do_sync(Warp &w, unsigned who) {  // every lane learns what any of them knows, and that all intervals are over
  uint32_t known[32] = {};
  for (int i = 0; i < 32; i++)
    if (who >> i & 1) {
      for (int j = 0; j < 32; j++) known[j] = std::max(known[j], w.seen[i][j]);
      known[i] = std::max(known[i], w.clock[i]++);
    }
  for (int i = 0; i < 32; i++)
    if (who >> i & 1) std::memcpy(w.seen[i], known, sizeof known);
}

// Carries out the collective that t waits in, if all lanes of its mask that have not returned have come.
static bool complete(Thread &t) {
  Warp &w = warps[t.number / 32];
  Thread *lanes = &threads[t.number & ~31];
  const unsigned who = t.mask & w.alive;
  for (int i = 0; i < 32; i++)
    if (who >> i & 1) {
      if (lanes[i].state != IN_WARP) return false;
      if (lanes[i].operation != t.operation || lanes[i].mask != t.mask) {
        if (Finding *f = found(MISMATCH, t.pc, lanes[i].pc)) f->thread = t.number, f->other_thread = lanes[i].number;
        stop();
      }
    }
  if (t.operation == SYNC) do_sync(w, who);
  if (t.operation == SHUFFLE) do_shuffle(lanes, who);
  if (t.operation == BALLOT) {
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) votes |= unsigned((who >> i & 1) && lanes[i].predicate) << i;
    for (int i = 0; i < 32; i++) if (who >> i & 1) lanes[i].result = votes;
  }
  if (t.operation == MMA) {
    if (who != ~0u) {
      if (Finding *f = found(ABSENT_LANE, t.pc)) f->thread = t.number, f->a = __builtin_ctz(~who);
      stop();
    }
    do_mma(lanes);
  }
  for (int n = 0; n < 32; n++) {
    const int i = launch.schedule == Launch::REVERSE ? 31 - n : n;
    if (who >> i & 1) make_ready(lanes[i]);
  }
  return true;
}

static void collective(Operation operation, unsigned mask, Address pc) {
  Thread &me = *current;
  me.pc = pc;
  me.operation = operation;
  me.mask = mask;
  me.state = IN_WARP;
  if (!(mask >> me.number % 32 & 1)) {
    found(NOT_IN_MASK, pc);
    stop();
  }
  complete(me);
  wait(pc);
}

void sync_warp(unsigned mask) { collective(SYNC, mask, Address(__builtin_return_address(0))); }

unsigned long long shuffle(Shuffle how, unsigned mask, unsigned long long value, int lane, int width) {
  current->how = how;
  current->value = value;
  current->lane = lane;
  current->width = width;
  collective(SHUFFLE, mask, Address(__builtin_return_address(0)));
  return current->result;
}

unsigned ballot(unsigned mask, int predicate) {
  current->predicate = predicate;
  collective(BALLOT, mask, Address(__builtin_return_address(0)));
  return unsigned(current->result);
}

void mma_m16n8k8_tf32(float *d, const unsigned *a, const unsigned *b) {
  current->d = d;
  current->a = a;
  current->b = b;
  collective(MMA, ~0u, Address(__builtin_return_address(0)));
}

static void finish_thread() {
  Thread &me = *current;
  me.state = FINISHED;
  me.groups.clear();
  me.open.clear();
  block.finished++;
  warps[me.number / 32].alive &= ~(1u << me.number % 32);
  for (int i = me.number & ~31; i < std::min(block.threads, (me.number & ~31) + 32); i++)  // lanes that waited for this one
    if (threads[i].state == IN_WARP) complete(threads[i]);
  open_barrier_if_all_wait();
}

// ---- cp.async: nothing arrives before the wait that asks for it. A GPU may be early; a kernel must not count on that. -----

void copy_async(void *shared, const void *global, int size, int size_read) {
  const Copy copy{static_cast<char *>(shared), static_cast<const char *>(global), size, size_read, Address(__builtin_return_address(0))};
  copy_begins(copy);
  std::memset(shared, 0xff, size_t(size));  // NaN until then
  current->open.push_back(copy);
}

void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void wait_copies(int groups_left) {
  auto &groups = current->groups;
  for (; int(groups.size()) > groups_left; groups.erase(groups.begin()))
    for (const Copy &c : groups.front()) {
      std::memset(c.to, 0, size_t(c.size));
      if (c.size_read) std::memcpy(c.to, c.from, size_t(c.size_read));
      copy_lands(c);
    }
}

// ---- blocks --------------------------------------------------------------------------------------------------------------

static void tell_deadlock() {
  int64_t waiting[2] = {}, pc[2] = {}, who = 0;
  for (Thread &t : threads)
    if (t.state == AT_BARRIER || t.state == IN_WARP) {
      const int kind = t.state == IN_WARP;
      if (!waiting[kind]++) pc[kind] = int64_t(t.pc);
      who = t.number;
    }
  if (Finding *f = found(DEADLOCK, Address(pc[0]), Address(pc[1])))
    f->thread = who, f->a = waiting[0], f->b = waiting[1], f->c = block.finished;
}

static void run_block(long number, unsigned seed) {
  const unsigned w = place.block_size.x, h = place.block_size.y, d = place.block_size.z;
  const long gx = place.grid_size.x, gy = place.grid_size.y;
  place.block = {unsigned(number % gx), unsigned(number / gx % gy), unsigned(number / gx / gy)};
  block = {number, 0, int(w * h * d), 0, 0, false};
  threads.resize(size_t(block.threads));
  warps.resize((threads.size() + 31) / 32);
  std::memset(warps.data(), 0, warps.size() * sizeof(Warp));
  for (Warp &warp : warps) std::fill_n(warp.clock, 32, 1);
  random_numbers.seed(seed + unsigned(number) * 7919u);
  ready.clear();
  head = 0;
  for (int i = 0; i < block.threads; i++) {
    Thread &t = threads[size_t(i)];
    t.index = {unsigned(i) % w, unsigned(i) / w % h, unsigned(i) / w / h};
    t.number = i;
    t.state = READY;
    t.stack = nullptr;
    t.groups.clear();
    t.open.clear();
    warps[size_t(i) / 32].alive |= 1u << i % 32;
    ready.push_back(launch.schedule == Launch::REVERSE ? block.threads - 1 - i : i);
  }
  begin_block();
  go_on_with(next_thread(), main_context);
  current = nullptr;
  if (!block.stopped && block.finished < block.threads) tell_deadlock(), block.stopped = true;
  end_block();
  if (block.stopped) {  // threads lie about, half done: clear their stacks
    idle = stacks;
    for (Stack *s : stacks) prepare(*s, run_threads);
  }
}

static void on_crash(int signal_number, siginfo_t *info, void *state) {
  if (!current || !pthread_equal(pthread_self(), runner)) {  // not in a kernel: let it crash as it would have
    signal(signal_number, SIG_DFL);
    return;
  }
  Address pc = 0;
#if defined(__x86_64__)
  pc = Address(static_cast<ucontext_t *>(state)->uc_mcontext.gregs[REG_RIP]) + 1;
#elif defined(__aarch64__)
  pc = Address(static_cast<ucontext_t *>(state)->uc_mcontext.pc) + 1;
#endif
  const char *p = static_cast<char *>(info->si_addr);
  if (Finding *f = found(CRASH, pc)) {
    f->region = nearest_region(p);
    f->offset = f->region < 0 ? int64_t(p) : p - regions[size_t(f->region)].low;
    f->a = p < current->stack->low && p >= current->stack->low - sysconf(_SC_PAGESIZE);  // below the stack: it overflowed
  }
  stop();
}

}  // namespace tu_emu

using namespace tu_emu;

// Before another library runs: a process has a limited number of mappings, and every stack is two.
TU_PUBLIC void tu_free_stacks() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  for (Stack *s : stacks) munmap(s->low - page, STACK + page), delete s;
  stacks.clear();
  idle.clear();
}

// numbers: block x y z, grid x y z, check, trace, schedule, seed, traced block
TU_PUBLIC void tu_launch(void (*kernel)(void **), void **arguments, const int64_t *numbers) {
  auto size = [&](int i) { return dim3{unsigned(numbers[i]), unsigned(numbers[i + 1]), unsigned(numbers[i + 2])}; };
  place.block_size = size(0);
  place.grid_size = size(3);
  launch = {kernel, arguments, numbers[6] != 0, numbers[7] != 0, Launch::Schedule(numbers[8]), long(numbers[10])};
  runner = pthread_self();
  const long blocks = long(place.grid_size.x) * place.grid_size.y * place.grid_size.z;

  std::vector<char> signal_memory(64 << 10);  // a stack of its own for the handler: the thread's may have overflowed
  stack_t signal_stack{}, old_stack;
  signal_stack.ss_sp = signal_memory.data();
  signal_stack.ss_size = signal_memory.size();
  sigaltstack(&signal_stack, &old_stack);
  struct sigaction action {}, old_segv, old_bus;
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);

  std::vector<long> order(static_cast<size_t>(blocks));
  for (long i = 0; i < blocks; i++) order[size_t(i)] = launch.schedule == Launch::REVERSE ? blocks - 1 - i : i;
  std::mt19937 shuffled(static_cast<unsigned>(numbers[9]));
  if (launch.schedule == Launch::RANDOM)
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[shuffled() % i]);
  for (size_t i = 0; i < order.size() && !(i && block.stopped); i++) run_block(order[i], unsigned(numbers[9]));

  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  sigaltstack(&old_stack, nullptr);
}
