// Compiled once for each instruction set, as kernels_portable, kernels_avx2, ...
#include "conv_kernels/depthwise.h"
#include "conv_kernels/integers.h"
#include "conv_kernels/lists.h"
#include "conv_kernels/outputs.h"
#include "conv_kernels/products.h"
#include "conv_kernels/spikes.h"

namespace nmx {

#define NMX_TABLE_OF(set) kernels_##set
#define NMX_NAME_OF(set) #set
#define NMX_EXPAND(macro, set) macro(set)

extern const Kernels NMX_EXPAND(NMX_TABLE_OF, NEUROMIX_SET);
const Kernels NMX_EXPAND(NMX_TABLE_OF, NEUROMIX_SET) = {NMX_EXPAND(NMX_NAME_OF, NEUROMIX_SET),
                             count_bits,
                             best_list_bits,
                             copy_list,
                             {add_panel<kTile / 2>, add_panel<kTile>},
                             add_rows_times,
                             {add_small_panel<kTile / 2>, add_small_panel<kTile>},
                             add_small_rows_times,
                             {multiply<kTile / 2>, multiply<kTile>},
                             add_spikes,
                             add_small_spikes,
                             add_products,
                             scale,
                             add,
                             put,
                             fire};

}  // namespace nmx
