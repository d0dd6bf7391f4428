// Marks the few functions shared by host and device code, so that their arithmetic has one definition.
#ifndef KVLINK_KERNELS_HOST_DEVICE_H_
#define KVLINK_KERNELS_HOST_DEVICE_H_

#ifdef __CUDACC__
#define KVLINK_HOST_DEVICE __host__ __device__
#else
#define KVLINK_HOST_DEVICE
#endif

#endif  // KVLINK_KERNELS_HOST_DEVICE_H_
