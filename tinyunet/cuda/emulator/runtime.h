// What the two halves of the runtime share: scheduler.cpp decides which thread runs, memory.cpp looks at what it touches.
//
// One launch runs at a time, on one system thread (Python holds a lock), so its state is a handful of globals.
#pragma once
#include <cstdint>
#include <vector>
#include <ucontext.h>
#include "device.h"

namespace tu_emu {

using Address = uintptr_t;  // of an instruction; Python turns it into file and line

// ---- fibers --------------------------------------------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(TU_UCONTEXT)
struct Context { void *stack_pointer = nullptr; };
#else
using Context = ucontext_t;
#endif
struct Stack { Context context; char *low, *high; };

// ---- threads and warps ---------------------------------------------------------------------------------------------------

enum State { READY, RUNNING, AT_BARRIER, IN_WARP, FINISHED };
enum Operation { SYNC, SHUFFLE, BALLOT, MMA };

struct Copy { char *to; const char *from; int size, size_read; Address pc; };

struct Thread {
  uint3 index;
  int number;              // x + y * width + z * width * height; number / 32 is its warp
  State state;
  Stack *stack;            // null until it first runs
  Address pc;              // of the barrier or collective in which it waits
  int site, predicate;     // barrier
  Operation operation;     // collective, from here
  Shuffle how;
  unsigned mask;
  uint64_t value, result;
  int lane, width;
  float *d;
  const unsigned *a, *b;
  std::vector<std::vector<Copy>> groups;  // cp.async: committed, oldest first, ...
  std::vector<Copy> open;                 // ... and not yet committed
};

struct Warp {
  unsigned alive;           // lanes that exist and have not returned
  // For races. A lane's life is cut into intervals by __syncwarp; seen[i][j] is the last interval of lane j that is over,
  // as far as lane i knows: a vector clock.
  uint32_t clock[32];
  uint32_t seen[32][32];
};

struct Block {
  long number;
  uint32_t epoch;           // barriers passed
  int threads, waiting, finished;
  bool stopped;             // by an error after which nothing makes sense
};

struct Launch {
  void (*kernel)(void **);
  void **arguments;
  bool check, trace;
  enum Schedule { INDEX, REVERSE, RANDOM } schedule;
  long traced_block;        // -1 for all
};

extern Launch launch;
extern Block block;
extern Thread *current;     // null outside of the kernel
extern std::vector<Warp> warps;

[[noreturn]] void stop();   // leave the kernel for good, from inside one of its threads

// ---- memory --------------------------------------------------------------------------------------------------------------

struct Touch {              // an access to a word, as remembered for races
  uint32_t block = 0;       // number + 1; 0 for none
  uint32_t epoch, clock;
  uint16_t thread;
  uint8_t bytes;            // which of the word's four, as bits
  bool atomic;
  Address pc;
};

struct Word {               // what is known of four bytes
  Touch write, read[2];
  uint32_t owner = 0;       // shared memory: the block for which the rest holds
  uint8_t written = 0;      // bytes that hold a value, as bits
  uint8_t pending = 0;      // bytes that a cp.async is still to fill
};

struct Region {
  char *low, *high;
  bool shared, writable;
  std::vector<Word> words;
};
extern std::vector<Region> regions;  // [0] static shared memory, [1] dynamic shared memory, then one for each array

enum Kind { LOAD, STORE, ATOMIC };
void begin_block();
void end_block();
void look(const void *p, int size, Kind kind, Address pc);
void copy_begins(const Copy &copy);
void copy_lands(const Copy &copy);
int nearest_region(const char *p);   // whose surroundings p lies in; -1 for none
bool in_module(const void *p);       // constants and variables of the compiled module

// ---- results, read by Python: see report.py ------------------------------------------------------------------------------

enum Problem {
  RACE, UNWRITTEN, NOT_WAITED, OUT_OF_BOUNDS, MISALIGNED, CONST_WRITE, DIVERGENT_BARRIER, RETURNED_BEFORE_BARRIER,
  DEADLOCK, MISMATCH, NOT_IN_MASK, ABSENT_LANE, ENDLESS, CRASH
};
struct Finding {            // all fields are 64 bits wide, so that NumPy can read the table
  int64_t problem, pc, other_pc, block, thread, other_block, other_thread, region, offset, size, a, b, c, count;
};
struct Line {
  int64_t pc, region, kind, size, requests, lanes, sectors, ideal_sectors, passes, ideal_passes, offsets[32];
};
extern std::vector<Finding> findings;
extern std::vector<Line> lines;
extern int64_t totals[6];   // loads, stores, atomics of global memory, then of shared memory

// Where to tell of a problem; null if it was told of these two places before, unless this is of a higher grade.
Finding *found(Problem problem, Address pc, Address other_pc = 0, int grade = 0);

}  // namespace tu_emu
