#define KVLINK_CHECKSUM ChecksumAvx512
#include "base/checksum.inc"
