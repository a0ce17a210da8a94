// One request of a warp, in patterns whose cost can be counted by hand.
extern "C" __global__ void global_strided(float *y, const float *x, int stride, int offset) {
  float v = x[threadIdx.x * stride + offset];
  y[threadIdx.x] = v;
}

extern "C" __global__ void global_float4(float4 *y, const float4 *x) {
  y[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void shared_strided(float *y, int stride) {
  __shared__ float s[1024];
  int t = threadIdx.x;
  for (int i = t; i < 1024; i += 32) s[i] = i;
  __syncthreads();
  y[t] = s[t * stride % 1024];
}

extern "C" __global__ void shared_column(float *y, int stride) {
  extern __shared__ float s[];
  int t = threadIdx.x;
  s[t * stride] = t;
  __syncwarp();
  y[t] = s[t * stride];
}

extern "C" __global__ void shared_float4(float *y, int stride) {
  __shared__ float4 s[32 * 8];
  int t = threadIdx.x;
  s[t * stride] = make_float4(t, t, t, t);
  __syncwarp();
  float4 v = s[t * stride];
  y[t] = v.w;
}

// Threads that write neighbouring bytes of a word do not race; 3-D indices, grid and block sizes.
extern "C" __global__ void neighbours(unsigned char *y) {
  int i = ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y * blockDim.z
        + (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[i] = (unsigned char)i;
}

template <int FACTOR> __global__ void scale(double *y, const double *x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = FACTOR * x[i];
}

// With RANDOM schedules the order of these shows: nothing says who is first.
extern "C" __global__ void order(int *y, int *next) { y[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x; }

extern "C" __global__ void deep(float *y, int n) {
  volatile float a[40000];
  for (int i = 0; i < 40000; i++) a[i] = n + i;
  y[threadIdx.x] = a[n];
}
