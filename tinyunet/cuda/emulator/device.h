// What CUDA C++ gives a kernel, spelled for an ordinary C++ compiler. It is put in front of every kernel that is emulated.
//
// No header of the system is included: kernels get exactly what NVRTC would give them, and compile in a fraction of a second.
// With TU_CHECKED (check and trace mode) the kernel is compiled with -fsanitize=thread: the compiler then calls
// __tsan_read4(address) and the like before every load and store, and memory.cpp answers those calls. ThreadSanitizer itself
// is never linked.
#pragma once
#define TU_EMULATOR 1

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local  // the threads of a block are fibers of one system thread: one copy for the block,
                                        // found by the runtime as the thread-local storage of the compiled module
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))  // alignas would have to stand before __shared__
#define TU_INLINE __attribute__((always_inline)) inline
#define TU_RAW __attribute__((noinline, no_sanitize("thread")))  // its own loads and stores are not the kernel's

using size_t = decltype(sizeof(0));

// ---- vector types: one load or store moves all elements, and needs an address that is a multiple of the whole -----------

struct uint3 { unsigned x, y, z; };
struct float3 { float x, y, z; };
struct int3 { int x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace tu_emu { void copy_vector(void *to, const void *from, int size); }
#ifdef TU_CHECKED  // the compiler would split a copy into elements: say what it is, one access of the whole
#define TU_COPY(V) \
  TU_INLINE V(const V &v) { tu_emu::copy_vector(this, &v, sizeof(V)); } \
  TU_INLINE V &operator=(const V &v) { tu_emu::copy_vector(this, &v, sizeof(V)); return *this; }
#else
#define TU_COPY(V)
#endif
#define TU_VECTORS(T, name) /* constexpr, for then a __shared__ array of them has no code that initialises it */ \
  struct alignas(2 * sizeof(T)) name##2 { \
    T x, y; constexpr name##2(T a = 0, T b = 0) : x(a), y(b) {} TU_COPY(name##2) }; \
  struct alignas(4 * sizeof(T)) name##4 { \
    T x, y, z, w; constexpr name##4(T a = 0, T b = 0, T c = 0, T d = 0) : x(a), y(b), z(c), w(d) {} TU_COPY(name##4) }; \
  TU_INLINE name##2 make_##name##2(T a, T b) { return name##2(a, b); } \
  TU_INLINE name##4 make_##name##4(T a, T b, T c, T d) { return name##4(a, b, c, d); }
TU_VECTORS(float, float)
TU_VECTORS(int, int)
TU_VECTORS(unsigned, uint)
TU_VECTORS(unsigned char, uchar)

// ---- where a thread is ---------------------------------------------------------------------------------------------------

namespace tu_emu {
struct Place { uint3 thread, block; dim3 block_size, grid_size; };
extern Place place;  // of the running thread; the scheduler sets it at every switch
#ifdef TU_CHECKED
TU_RAW __attribute__((const)) inline uint3 thread_index() { return place.thread; }
TU_RAW __attribute__((const)) inline uint3 block_index() { return place.block; }
TU_RAW __attribute__((const)) inline dim3 block_size() { return place.block_size; }
TU_RAW __attribute__((const)) inline dim3 grid_size() { return place.grid_size; }
#else
TU_INLINE const uint3 &thread_index() { return place.thread; }
TU_INLINE const uint3 &block_index() { return place.block; }
TU_INLINE const dim3 &block_size() { return place.block_size; }
TU_INLINE const dim3 &grid_size() { return place.grid_size; }
#endif
}  // namespace tu_emu
#define threadIdx (tu_emu::thread_index())
#define blockIdx (tu_emu::block_index())
#define blockDim (tu_emu::block_size())
#define gridDim (tu_emu::grid_size())
constexpr int warpSize = 32;

// ---- barriers, warp collectives, asynchronous copies: scheduler.cpp ------------------------------------------------------

namespace tu_emu {
enum Shuffle { FROM, UP, DOWN, XOR };
int barrier(int site, int predicate);  // -> for how many threads the predicate held
void sync_warp(unsigned mask);
unsigned long long shuffle(Shuffle how, unsigned mask, unsigned long long value, int lane, int width);
unsigned ballot(unsigned mask, int predicate);
void mma_m16n8k8_tf32(float *d, const unsigned *a, const unsigned *b);
void copy_async(void *shared, const void *global, int size, int size_read);
void commit_copies();
void wait_copies(int groups_left);
void *dynamic_shared();
void note_atomic(void *p, int size, void *caller);

template <class T> TU_INLINE T shuffled(Shuffle how, unsigned mask, T value, int lane, int width) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = shuffle(how, mask, bits, lane, width);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace tu_emu

// __COUNTER__ names the place in the source: two barriers on one line differ, one barrier unrolled twice does not. The empty
// assembly keeps the compiler from making one call of two places.
#define TU_BARRIER(site, p) \
  ({ asm volatile("" ::"i"(site)); int held = tu_emu::barrier(site, p); asm volatile("" ::"i"(site)); held; })
#define TU_BARRIER_HERE(p) TU_BARRIER(__COUNTER__, p)
#define __syncthreads() ((void)TU_BARRIER_HERE(0))
#define __syncthreads_count(p) (TU_BARRIER_HERE(!!(p)))
#define __syncthreads_or(p) (TU_BARRIER_HERE(!!(p)) > 0)
#define __syncthreads_and(p) (TU_BARRIER_HERE(!(p)) == 0)
TU_INLINE void __syncwarp(unsigned mask = ~0u) { tu_emu::sync_warp(mask); }
template <class T> TU_INLINE T __shfl_sync(unsigned m, T v, int lane, int width = 32) { return tu_emu::shuffled(tu_emu::FROM, m, v, lane, width); }
template <class T> TU_INLINE T __shfl_up_sync(unsigned m, T v, int by, int width = 32) { return tu_emu::shuffled(tu_emu::UP, m, v, by, width); }
template <class T> TU_INLINE T __shfl_down_sync(unsigned m, T v, int by, int width = 32) { return tu_emu::shuffled(tu_emu::DOWN, m, v, by, width); }
template <class T> TU_INLINE T __shfl_xor_sync(unsigned m, T v, int bits, int width = 32) { return tu_emu::shuffled(tu_emu::XOR, m, v, bits, width); }
TU_INLINE unsigned __ballot_sync(unsigned mask, int p) { return tu_emu::ballot(mask, !!p); }
TU_INLINE int __any_sync(unsigned mask, int p) { return tu_emu::ballot(mask, !!p) != 0; }
TU_INLINE int __all_sync(unsigned mask, int p) { return tu_emu::ballot(mask, !p) == 0; }
TU_INLINE void __threadfence() {}  // threads take turns, so every store is seen at once; that order is no promise, and is not
TU_INLINE void __threadfence_block() {}  // taken for one by the check for races

// Threads switch only inside the functions above, so plain code is atomic here.
#define TU_ATOMIC(name, result) \
  template <class T, class U> TU_RAW T name(T *p, U with) { \
    tu_emu::note_atomic(p, sizeof(T), __builtin_return_address(0)); \
    T old = *p, v = T(with); *p = result; return old; }
TU_ATOMIC(atomicAdd, T(old + v))
TU_ATOMIC(atomicSub, T(old - v))
TU_ATOMIC(atomicMax, (old > v ? old : v))
TU_ATOMIC(atomicMin, (old < v ? old : v))
TU_ATOMIC(atomicExch, v)
TU_ATOMIC(atomicAnd, T(old & v))
TU_ATOMIC(atomicOr, T(old | v))
template <class T> TU_RAW T atomicCAS(T *p, T expected, T v) {
  tu_emu::note_atomic(p, sizeof(T), __builtin_return_address(0));
  T old = *p; if (old == expected) *p = v; return old;
}

// ---- small functions -----------------------------------------------------------------------------------------------------

template <class T> TU_INLINE T __ldg(const T *p) { return *p; }
TU_INLINE unsigned __float_as_uint(float v) { unsigned u; __builtin_memcpy(&u, &v, 4); return u; }
TU_INLINE float __uint_as_float(unsigned v) { float f; __builtin_memcpy(&f, &v, 4); return f; }
TU_INLINE int __float_as_int(float v) { return int(__float_as_uint(v)); }
TU_INLINE float __int_as_float(int v) { return __uint_as_float(unsigned(v)); }
TU_INLINE int __popc(unsigned v) { return __builtin_popcount(v); }
TU_INLINE int __ffs(int v) { return __builtin_ffs(v); }
TU_INLINE int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
template <class T> TU_INLINE T min(T a, T b) { return b < a ? b : a; }
template <class T> TU_INLINE T max(T a, T b) { return a < b ? b : a; }
extern "C" {
float sqrtf(float) noexcept; float expf(float) noexcept; float exp2f(float) noexcept; float logf(float) noexcept;
float log2f(float) noexcept; float log1pf(float) noexcept; float tanhf(float) noexcept; float powf(float, float) noexcept;
float fabsf(float) noexcept; float floorf(float) noexcept; float ceilf(float) noexcept; float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept; float fminf(float, float) noexcept; double sqrt(double) noexcept; double exp(double) noexcept;
double log(double) noexcept; double fabs(double) noexcept; double fma(double, double, double) noexcept;
}
TU_INLINE float rsqrtf(float v) { return 1.0f / sqrtf(v); }
TU_INLINE float __expf(float v) { return expf(v); }
TU_INLINE float __logf(float v) { return logf(v); }
TU_INLINE float __fdividef(float a, float b) { return a / b; }
TU_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

// ---- how Python calls a kernel: TU_EXPORT(3, conv3x3<8>) makes tu_kernel_3(arguments) and tu_parameters_3() ---------------

namespace tu_emu {
struct Parameter { char pointer, type, size, end; };  // pointer: 'r' to const, 'w', or '-' by value; type as in NumPy's dtype.kind
template <class T> constexpr char type_of() {
  if constexpr (__is_class(T)) return 'V';
  else return T(2) == T(1) ? 'b' : T(0.5) != T(0) ? 'f' : T(-1) < T(0) ? 'i' : 'u';
}
template <class T> struct Describe { static constexpr Parameter value{'-', type_of<T>(), sizeof(T), 0}; };
template <class T> struct Describe<T *> { static constexpr Parameter value{'w', type_of<T>(), sizeof(T), 0}; };
template <class T> struct Describe<const T *> { static constexpr Parameter value{'r', type_of<T>(), sizeof(T), 0}; };

template <class... A> struct Call {  // arguments in braces are evaluated from left to right, so a counter can walk them
  TU_RAW Call(void (*kernel)(A...), A... a) { kernel(a...); }
};
template <class... A> TU_RAW void call(void (*kernel)(A...), void **arguments) {
  int i = 0;
  (void)i;
  Call<A...>{kernel, *static_cast<A *>(arguments[i++])...};
}
template <class... A> const Parameter *parameters(void (*)(A...)) {
  static constexpr Parameter all[] = {Describe<A>::value..., {0, 0, 0, 0}};
  return all;
}
}  // namespace tu_emu
#define TU_PUBLIC extern "C" __attribute__((visibility("default")))
#define TU_EXPORT(i, ...) \
  TU_PUBLIC TU_RAW void tu_kernel_##i(void **arguments) { tu_emu::call(&__VA_ARGS__, arguments); } \
  TU_PUBLIC const void *tu_parameters_##i() { return tu_emu::parameters(&__VA_ARGS__); }
