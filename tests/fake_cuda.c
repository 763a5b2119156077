/* What agentkd.exchange.cuda calls of a CUDA driver, with memory of the host: signatures as in cuda.h, and no GPU. */

#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address; /* CUdeviceptr */
typedef struct { char reserved[64]; } Handle; /* CUipcMemHandle, passed by value */

enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, NO_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400 };
enum { BLOCK = 2 << 20 };
static int context, depth;
static void *const stream = (void *)0x77;

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number ? NO_DEVICE : 0; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { memset(uuid, 0xab + device, 16); return 0; }
int cuDevicePrimaryCtxRetain(void **found, int device) { *found = &context; return device ? NO_DEVICE : 0; }
int cuCtxPushCurrent_v2(void *pushed) { depth++; return pushed == &context ? 0 : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **popped) { *popped = &context; return depth-- > 0 ? 0 : INVALID_CONTEXT; }
int cuStreamCreate(void **made, unsigned flags) { *made = stream; return flags == 1 && depth ? 0 : INVALID_VALUE; }
int cuStreamSynchronize(void *waited) { return waited == stream ? 0 : INVALID_HANDLE; }

int cuMemAlloc_v2(Address *address, size_t size) {
    if (!depth) return INVALID_CONTEXT;
    if (size != BLOCK) return OUT_OF_MEMORY;
    *address = (Address)aligned_alloc(256, size);
    return 0;
}
int cuMemFree_v2(Address address) { free((void *)address); return depth ? 0 : INVALID_CONTEXT; }
int cuMemGetAddressRange_v2(Address *base, size_t *size, Address address) {
    *base = address & ~(Address)255; /* asked here for the first 256 octets alone */
    *size = BLOCK;
    return 0;
}
int cuIpcGetMemHandle(Handle *handle, Address address) {
    memset(handle, 0, sizeof *handle);
    memcpy(handle->reserved, &address, 8);
    memcpy(handle->reserved + 56, &address, 8);
    return 0;
}
int cuIpcOpenMemHandle_v2(Address *address, Handle handle, unsigned flags) {
    Address first, last;
    memcpy(&first, handle.reserved, 8);
    memcpy(&last, handle.reserved + 56, 8);
    *address = first;
    return flags == 1 && first && first == last ? 0 : INVALID_VALUE;
}
int cuIpcCloseMemHandle(Address address) { return address ? 0 : INVALID_VALUE; }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *on) {
    memcpy(to, (void *)from, size);
    return on == stream ? 0 : INVALID_HANDLE;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *on) {
    memcpy((void *)to, from, size);
    return on == stream ? 0 : INVALID_HANDLE;
}
int cuGetErrorName(int result, const char **word) {
    *word = result == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OTHER";
    return result == NO_DEVICE ? INVALID_VALUE : 0;
}
