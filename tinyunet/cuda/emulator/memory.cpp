// Looks at every load and store of a checked kernel: is the address one that may be touched, does the word hold a value, has
// another thread touched it with nothing in between to order the two, and which sectors and banks does the warp ask for.
#include "runtime.h"

namespace tu_emu {

std::vector<Region> regions;
std::vector<Finding> findings;
std::vector<Line> lines;
int64_t totals[6];

namespace {
char *module_low, *module_high;     // the compiled module, and its thread-local storage: the kernel's __shared__ variables
char *shared_low, *shared_high;
constexpr int margin = 64 << 10;    // Python leaves this much around every array, so that near misses are told by its name
const Thread *counted;              // for endless loops: the thread that made the last accesses, and how many
long accesses;
}  // namespace

Finding *found(Problem problem, Address pc, Address other_pc, int grade) {
  Finding *f = nullptr;
  for (Finding &old : findings)
    if (old.problem == problem && old.pc == int64_t(pc) && old.other_pc == int64_t(other_pc)) f = &old;
  if (f && ++f->count && f->c >= grade) return nullptr;
  if (!f) f = &findings.emplace_back(Finding{problem, int64_t(pc), int64_t(other_pc), 0, 0, -1, -1, -1, 0, 0, 0, 0, 0, 1});
  f->block = block.number;
  f->thread = current ? current->number : 0;
  f->c = grade;
  return f;
}

// ---- which memory is it? -------------------------------------------------------------------------------------------------

extern "C" void *__tls_get_addr(size_t *module_and_offset);

static int find_module(dl_phdr_info *info, size_t, void *) {
  const char *base = reinterpret_cast<const char *>(info->dlpi_addr), *probe = reinterpret_cast<const char *>(&module_low);
  char *low = nullptr, *high = nullptr;
  size_t local = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto &part = info->dlpi_phdr[i];
    char *start = const_cast<char *>(base) + part.p_vaddr;
    if (part.p_type == PT_LOAD) low = low ? std::min(low, start) : start, high = std::max(high, start + part.p_memsz);
    if (part.p_type == PT_TLS) local = part.p_memsz;
  }
  if (probe < low || probe >= high) return 0;
  module_low = low;
  module_high = high;
  size_t where[] = {info->dlpi_tls_modid, 0};
  shared_low = local ? static_cast<char *>(__tls_get_addr(where)) : nullptr;  // not dlpi_tls_data: null before the first use
  shared_high = shared_low + local;
  return 1;
}

bool in_module(const void *p) { return p >= module_low && p < module_high; }

int nearest_region(const char *p) {
  for (size_t i = 0; i < regions.size(); i++)
    if (regions[i].low && p >= regions[i].low - (i ? margin : 0) && p < regions[i].high + (i ? margin : 0)) return int(i);
  return -1;
}

static Region *region_of(const char *p) {
  static size_t last;  // most accesses go where the one before went
  if (last < regions.size() && p >= regions[last].low && p < regions[last].high) return &regions[last];
  for (last = 0; last < regions.size(); last++)
    if (p >= regions[last].low && p < regions[last].high) return &regions[last];
  return nullptr;
}

void *dynamic_shared() { return regions[1].low; }

// ---- races ---------------------------------------------------------------------------------------------------------------
//
// Two accesses race if they may come in either order, one of them writes, and not both are atomic. What orders them: the same
// thread; a __syncthreads() between; in one warp, __syncwarp(). Nothing orders the blocks of a launch.

// How far an earlier access is: -1 none, or ordered before this one; 0 same warp; 1 same block; 2 another block.
static int distance(const Touch &t, bool shared) {
  if (!t.block) return -1;
  if (t.block != uint32_t(block.number) + 1) return shared ? -1 : 2;  // every block has shared memory of its own
  if (t.thread == current->number || t.epoch != block.epoch) return -1;
  if (t.thread / 32 != current->number / 32) return 1;
  return warps[t.thread / 32].seen[current->number % 32][t.thread % 32] >= t.clock ? -1 : 0;
}

static void check_race(const Touch &earlier, bool was_write, const Touch &now, bool writes, const Region &r, int64_t offset) {
  const int apart = distance(earlier, r.shared);
  if (!(earlier.bytes & now.bytes) || (earlier.atomic && now.atomic) || apart < 0) return;
  if (Finding *f = found(RACE, now.pc, earlier.pc, apart)) {  // what orders the farthest two orders all
    f->other_block = earlier.block - 1;
    f->other_thread = earlier.thread;
    f->region = &r - regions.data();
    f->offset = offset;
    f->a = writes;
    f->b = was_write;
  }
}

static void remember(Touch &slot, Touch now) {
  if (slot.block == now.block && slot.thread == now.thread && slot.epoch == now.epoch && slot.clock == now.clock) now.bytes |= slot.bytes;
  slot = now;
}

// Of all reads since the last write two are kept. They are from two blocks if any two were, else from two warps, else from
// two lanes: whichever thread writes next without a barrier, one of the two betrays it.
static void remember_read(Word &w, const Touch &now, bool shared) {
  auto mine = [&](const Touch &t) { return t.block == now.block && t.thread == now.thread; };
  if (mine(w.read[1])) return remember(w.read[1], now);
  if (!mine(w.read[0]) && distance(w.read[1], shared) < distance(w.read[0], shared)) w.read[1] = w.read[0];
  remember(w.read[0], now);
}

static Touch touch(uint8_t bytes, bool atomic, Address pc) {
  const Warp &w = warps[size_t(current->number) / 32];
  return {uint32_t(block.number) + 1, block.epoch, w.clock[current->number % 32], uint16_t(current->number), bytes, atomic, pc};
}

// Calls visit(word, its bytes that are touched as bits, offset in the region) for every word of an access.
template <class Visit> static void each_word(Region &r, const char *p, int size, Visit visit) {
  for (int64_t at = p - r.low, end = at + size; at < end; at = (at | 3) + 1) {
    const int from = int(at & 3), to = int(std::min<int64_t>(end - (at - from), 4));
    Word &w = r.words[size_t(at) / 4];
    if (r.shared && w.owner != uint32_t(block.number) + 1) w.owner = uint32_t(block.number) + 1, w.written = w.pending = 0;
    visit(w, uint8_t((1 << to) - (1 << from)), at);
  }
}

static void check(Region &r, const char *p, int size, Kind kind, Address pc) {
  each_word(r, p, size, [&](Word &w, uint8_t bytes, int64_t offset) {
    const Touch now = touch(bytes, kind == ATOMIC, pc);
    auto tell = [&](Problem problem) {
      if (Finding *f = found(problem, pc)) f->region = &r - regions.data(), f->offset = offset, f->a = kind != LOAD;
    };
    if (w.pending & bytes) tell(NOT_WAITED);
    else if (r.shared && kind != STORE && (w.written & bytes) != bytes) tell(UNWRITTEN);
    check_race(w.write, true, now, kind != LOAD, r, offset);
    if (kind == LOAD) return remember_read(w, now, r.shared);
    for (const Touch &t : w.read) check_race(t, false, now, true, r, offset);
    remember(w.write, now);
    w.written |= bytes;
  });
}

// ---- trace: what the lanes of a warp ask for together --------------------------------------------------------------------

namespace {
struct Access { Address pc; int region; Kind kind; int warp; uint32_t epoch, turn; int lane, size; int64_t offset; };
std::vector<Access> trace;                           // of the running block
std::vector<std::unordered_map<Address, std::pair<uint32_t, uint32_t>>> turns;  // by thread and place: epoch, times in it
}  // namespace

static void note(const Region &r, const char *p, int size, Kind kind, Address pc) {
  auto &[epoch, turn] = turns[size_t(current->number)][pc];
  if (epoch != block.epoch) epoch = block.epoch, turn = 0;  // lanes that fell out of step meet again at a barrier
  trace.push_back({pc, int(&r - regions.data()), kind, current->number / 32, epoch, turn++, current->number % 32, size, p - r.low});
}

// Shared memory has 32 banks of 4 bytes; a bank serves one word a pass. Wider accesses go by half and quarter warps.
static void count_passes(Line &line, const Access *first, const Access *last) {
  const int lanes_at_once = first->size <= 4 ? 32 : 128 / first->size;
  for (int from = 0; from < 32; from += lanes_at_once) {
    std::vector<int64_t> words;
    for (const Access *a = first; a != last; a++)
      if (a->lane >= from && a->lane < from + lanes_at_once)
        for (int64_t word = a->offset / 4; word <= (a->offset + a->size - 1) / 4; word++) words.push_back(word);
    if (words.empty()) continue;
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int in_bank[32] = {};
    for (int64_t word : words) in_bank[word & 31]++;
    line.passes += *std::max_element(in_bank, in_bank + 32);
    line.ideal_passes++;
  }
}

static void count_sectors(Line &line, const Access *first, const Access *last) {
  std::vector<int64_t> sectors, starts;
  for (const Access *a = first; a != last; a++) {
    starts.push_back(a->offset);
    for (int64_t s = a->offset / 32; s <= (a->offset + a->size - 1) / 32; s++) sectors.push_back(s);
  }
  auto distinct = [](std::vector<int64_t> &v) { std::sort(v.begin(), v.end()); return std::unique(v.begin(), v.end()) - v.begin(); };
  line.sectors += distinct(sectors);
  line.ideal_sectors += (distinct(starts) * first->size + 31) / 32;
}

static void end_trace() {  // groups the accesses of a block into requests, and adds them to their lines
  auto request = [](const Access &a) { return std::tie(a.pc, a.region, a.kind, a.size, a.warp, a.epoch, a.turn); };
  auto line_of = [](const Access &a) { return std::make_tuple(a.pc, a.region, a.kind, a.size); };
  static std::map<std::tuple<Address, int, Kind, int>, size_t> index;
  if (lines.empty()) index.clear();
  std::stable_sort(trace.begin(), trace.end(), [&](const Access &a, const Access &b) { return request(a) < request(b); });
  for (size_t i = 0, j; i < trace.size(); i = j) {
    for (j = i; j < trace.size() && request(trace[j]) == request(trace[i]);) j++;
    const Access *first = &trace[i], *last = first + (j - i);
    auto [at, is_new] = index.try_emplace(line_of(*first), lines.size());
    if (is_new) {
      lines.push_back({int64_t(first->pc), first->region, first->kind, first->size, 0, 0, 0, 0, 0, 0, {}});
      std::fill_n(lines.back().offsets, 32, -1);
      for (const Access *a = first; a != last; a++) lines.back().offsets[a->lane] = a->offset;
    }
    Line &line = lines[at->second];
    line.requests++;
    line.lanes += last - first;
    regions[size_t(first->region)].shared ? count_passes(line, first, last) : count_sectors(line, first, last);
  }
}

// ---- every access comes through here -------------------------------------------------------------------------------------

void look(const void *address, int size, Kind kind, Address pc) {
  const char *p = static_cast<const char *>(address);
  if (!current || !(launch.check || launch.trace)) return;
  if (p >= current->stack->low && p < current->stack->high) return;  // local memory: nobody else sees it
  Region *r = region_of(p);
  if (!r && in_module(p)) return;
  auto tell = [&](Problem problem) {
    Finding *f = found(problem, pc);
    if (!f) return;
    f->region = r ? r - regions.data() : nearest_region(p);
    f->offset = f->region < 0 ? int64_t(p) : p - regions[size_t(f->region)].low;
    f->size = size;
    f->a = kind != LOAD;
  };
  if (!r || p + size > r->high) tell(OUT_OF_BOUNDS), stop();  // a GPU would end the launch as well
  if (!(size & (size - 1)) && Address(p) % Address(size)) tell(MISALIGNED), stop();
  if (kind != LOAD && !r->writable) tell(CONST_WRITE);
  if (counted != current) counted = current, accesses = 0;
  if (++accesses > 20'000'000) tell(ENDLESS), stop();  // a second or so without letting any other thread run
  totals[(r->shared ? 3 : 0) + kind]++;
  if (launch.trace && (launch.traced_block < 0 || launch.traced_block == block.number)) note(*r, p, size, kind, pc);
  if (launch.check) check(*r, p, size, kind, pc);
}

void copy_begins(const Copy &c) {
  if (c.size_read) look(c.from, c.size_read, LOAD, c.pc);
  look(c.to, c.size, STORE, c.pc);
  Region *r = region_of(c.to);
  if (launch.check && r) each_word(*r, c.to, c.size, [](Word &w, uint8_t bytes, int64_t) { w.pending |= bytes; });
}

void copy_lands(const Copy &c) {  // it counts as a write of the thread that waited, at that time
  Region *r = region_of(c.to);
  if (launch.check && r)
    each_word(*r, c.to, c.size, [&](Word &w, uint8_t bytes, int64_t) {
      w.pending &= uint8_t(~bytes);
      remember(w.write, touch(bytes, false, c.pc));
    });
}

void begin_block() {
  counted = nullptr;
  for (Region &r : regions)
    if (r.shared && r.low) std::memset(r.low, 0xff, size_t(r.high - r.low));  // as NaN, what was never written shows
  turns.assign(launch.trace ? size_t(block.threads) : 0, {});
}

void end_block() {
  if (launch.trace) end_trace();
  trace.clear();
}

void note_atomic(void *p, int size, void *caller) { look(p, size, ATOMIC, Address(caller)); }

void copy_vector(void *to, const void *from, int size) {
  const Address pc = Address(__builtin_return_address(0));
  look(from, size, LOAD, pc);
  look(to, size, STORE, pc);
  std::memcpy(to, from, size_t(size));
}

}  // namespace tu_emu

using namespace tu_emu;

// ---- what -fsanitize=thread makes the compiler call ----------------------------------------------------------------------

#define TU_HOOK(name, size, kind) extern "C" void __tsan_##name(void *p) { look(p, size, kind, Address(__builtin_return_address(0))); }
#define TU_HOOKS(size) \
  TU_HOOK(read##size, size, LOAD) TU_HOOK(write##size, size, STORE) \
  TU_HOOK(unaligned_read##size, size, LOAD) TU_HOOK(unaligned_write##size, size, STORE)
TU_HOOKS(1) TU_HOOKS(2) TU_HOOKS(4) TU_HOOKS(8) TU_HOOKS(16)
extern "C" {
void __tsan_read_range(void *p, size_t n) { look(p, int(n), LOAD, Address(__builtin_return_address(0))); }
void __tsan_write_range(void *p, size_t n) { look(p, int(n), STORE, Address(__builtin_return_address(0))); }
void *__tsan_memcpy(void *to, const void *from, size_t n) {
  look(from, int(n), LOAD, Address(__builtin_return_address(0)));
  look(to, int(n), STORE, Address(__builtin_return_address(0)));
  return std::memcpy(to, from, n);
}
void *__tsan_memset(void *to, int value, size_t n) {
  look(to, int(n), STORE, Address(__builtin_return_address(0)));
  return std::memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
}

// ---- what Python calls ---------------------------------------------------------------------------------------------------

// Forgets the last launch. Regions: [low, high) and whether it may be written; the first is the dynamic shared memory.
TU_PUBLIC void tu_prepare(char *const *lows, char *const *highs, const int64_t *writable, int64_t count, int64_t check) {
  findings.clear();
  lines.clear();
  trace.clear();
  std::fill_n(totals, 6, 0);
  dl_iterate_phdr(find_module, nullptr);
  regions.clear();
  regions.push_back({shared_low, shared_high, true, true, {}});
  for (int64_t i = 0; i < count; i++) regions.push_back({lows[i], highs[i], i == 0, writable[i] != 0, {}});
  if (check)
    for (Region &r : regions) r.words.resize(size_t(r.high - r.low + 3) / 4);
}
TU_PUBLIC int64_t tu_static_shared() { return shared_high - shared_low; }
TU_PUBLIC const Finding *tu_findings(int64_t *count) { return *count = int64_t(findings.size()), findings.data(); }
TU_PUBLIC const Line *tu_lines(int64_t *count) { return *count = int64_t(lines.size()), lines.data(); }
TU_PUBLIC const int64_t *tu_totals() { return totals; }
