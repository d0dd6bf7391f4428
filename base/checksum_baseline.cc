#define KVLINK_CHECKSUM ChecksumBaseline
#include "base/checksum.inc"
