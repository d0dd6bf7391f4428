#define KVLINK_CHECKSUM ChecksumAvx2
#include "base/checksum.inc"
