/* Included twice, and after its standard headers. */
#include <stddef.h>
#include <stdint.h>
#include <kolo.h>
#include <kolo.h>
