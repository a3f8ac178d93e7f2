/* The second translation unit: nothing in the header may be defined twice. */
#include <kolo.h>

int other_unit(kolo_loop *loop);

int other_unit(kolo_loop *loop) {
    kolo_address address;
    char text[KOLO_ADDRESS_TEXT_MAX];
    if (kolo_loop_alive(loop) != 0) return 1;
    if (kolo_address_parse("::1", 80, &address) != KOLO_OK) return 2;
    return kolo_address_format(&address, text, sizeof text) == 8 ? 0 : 3;
}
