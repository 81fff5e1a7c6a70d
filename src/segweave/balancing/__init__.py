"""Balancing methods by config name: how the task losses become one update of the shared network."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

METHODS = Catalogue(
    "balancing method",
    __name__,
    {
        "equal": "Equal",
        "fixed": "Fixed",
        "uncertainty": "Uncertainty",
        "uncertainty_softmax": "UncertaintySoftmax",
        "dwa": "DWA",
        "random": "Random",
        "geometric_mean": "GeometricMean",
        "imtl_l": "IMTLL",
        "famo": "FAMO",
        "stch": "STCH",
        "go4align": "GO4Align",
        "ldc_mtl": "LDCMTL",
        "gradnorm": "GradNorm",
        "mgda": "MGDA",
        "pcgrad": "PCGrad",
        "gradvac": "GradVac",
        "graddrop": "GradDrop",
        "cagrad": "CAGrad",
        "imtl_g": "IMTLG",
        "nash_mtl": "NashMTL",
        "aligned_mtl": "AlignedMTL",
        "moco": "MoCo",
        "modo": "MoDo",
        "sdmgrad": "SDMGrad",
        "fairgrad": "FairGrad",
        "upgrad": "UPGrad",
        "dualproj": "DualProj",
        "config": "ConFIG",
        "conicgrad": "ConicGrad",
        "db_mtl": "DBMTL",
        "excess_mtl": "ExcessMTL",
        "imgrad": "IMGrad",
    },
)
__getattr__ = METHODS.attribute

if TYPE_CHECKING:
    from segweave.balancing.aligned_mtl import AlignedMTL as AlignedMTL
    from segweave.balancing.cagrad import CAGrad as CAGrad
    from segweave.balancing.config import ConFIG as ConFIG
    from segweave.balancing.conicgrad import ConicGrad as ConicGrad
    from segweave.balancing.db_mtl import DBMTL as DBMTL
    from segweave.balancing.dualproj import DualProj as DualProj
    from segweave.balancing.dwa import DWA as DWA
    from segweave.balancing.equal import Equal as Equal
    from segweave.balancing.excess_mtl import ExcessMTL as ExcessMTL
    from segweave.balancing.fairgrad import FairGrad as FairGrad
    from segweave.balancing.famo import FAMO as FAMO
    from segweave.balancing.fixed import Fixed as Fixed
    from segweave.balancing.geometric_mean import GeometricMean as GeometricMean
    from segweave.balancing.go4align import GO4Align as GO4Align
    from segweave.balancing.graddrop import GradDrop as GradDrop
    from segweave.balancing.gradnorm import GradNorm as GradNorm
    from segweave.balancing.gradvac import GradVac as GradVac
    from segweave.balancing.imgrad import IMGrad as IMGrad
    from segweave.balancing.imtl_g import IMTLG as IMTLG
    from segweave.balancing.imtl_l import IMTLL as IMTLL
    from segweave.balancing.ldc_mtl import LDCMTL as LDCMTL
    from segweave.balancing.mgda import MGDA as MGDA
    from segweave.balancing.moco import MoCo as MoCo
    from segweave.balancing.modo import MoDo as MoDo
    from segweave.balancing.nash_mtl import NashMTL as NashMTL
    from segweave.balancing.pcgrad import PCGrad as PCGrad
    from segweave.balancing.random import Random as Random
    from segweave.balancing.sdmgrad import SDMGrad as SDMGrad
    from segweave.balancing.stch import STCH as STCH
    from segweave.balancing.uncertainty import Uncertainty as Uncertainty
    from segweave.balancing.uncertainty_softmax import UncertaintySoftmax as UncertaintySoftmax
    from segweave.balancing.upgrad import UPGrad as UPGrad
